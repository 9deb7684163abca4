"""What becomes of a change after an error: again, refused, or no room."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    Unsupported,
)

FIRST_BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 60.0
FULL_RETRY_S: Final = 300.0
# Of one change, while all else is let in: a minute, and more than one look at the root. Then it is
# this change (S3 calls it a wrong signature where a gateway writes a name another way).
MOST_SIGN_INS: Final = 8

_MOST_CHARACTERS: Final = 300


class ContentMissing(Exception):
    """The staged bytes are not there any more: a power cut tore them, and they are quarantined."""


class StillRead(Exception):
    """Somebody has the version open that would be deleted or overwritten."""


_REFUSALS: Final = (Denied, NameNotAllowed, Unsupported, ContentMissing)
_EXPECTED: Final = (
    *(Unreachable, Throttled, Locked, Corrupt, ContainerMissing, NotFound, OSError),
    StillRead,
)


class Next(Enum):
    """AGAIN: with backoff, for ever. REFUSED: only when somebody asks for it. FULL: every
    FULL_RETRY_S, and nobody waits for it meanwhile."""

    AGAIN = auto()
    REFUSED = auto()
    FULL = auto()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A change that failed so far. `until_s`: of the loop's clock, when it is tried again.
    `sign_ins`: how many of its attempts the remote refused for who asks, while it was well."""

    attempts: int
    until_s: float
    reason: str
    is_full: bool = False
    sign_ins: int = 0


def what_next(error: Exception, *, remote_is_well: bool, sign_ins: int = 0) -> Next:
    """`remote_is_well`: after the error. A remote that denies everything (an expired token) is not
    well: then it wasn't this change that it refused. `sign_ins`: see Trouble, with this one."""
    if isinstance(error, Denied) and not remote_is_well:
        return Next.AGAIN
    if isinstance(error, SignInRefused) and sign_ins <= MOST_SIGN_INS:
        return Next.AGAIN  # what is known of the remote's state may be old
    if isinstance(error, _REFUSALS):
        return Next.REFUSED
    return Next.FULL if isinstance(error, QuotaExceeded) else Next.AGAIN


def is_foreseen(error: Exception) -> bool:
    """Whether a line says enough about it; else the log gets the traceback."""
    return isinstance(error, (*_EXPECTED, *_REFUSALS, QuotaExceeded))


def backoff_s(error: Exception, attempts: int, jitter: float) -> float:
    """Before the next try after `attempts` that failed; 0 <= jitter <= 1 takes up to half off."""
    if isinstance(error, QuotaExceeded):
        return FULL_RETRY_S
    if isinstance(error, StillRead):
        return FIRST_BACKOFF_S
    doubled_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempts - 1, 16))
    delay_s = doubled_s * (1.0 - 0.5 * jitter)
    if isinstance(error, Throttled) and error.retry_after_s:
        return max(delay_s, error.retry_after_s)
    return delay_s


def one_line(error: Exception) -> str:
    """The error as a reason that people read. Of a long one both ends: what it is about, which may
    be a key of 1,000 characters, and what is wrong with it."""
    text = " ".join(str(error).split())
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[: _MOST_CHARACTERS // 2]} ... {text[-_MOST_CHARACTERS // 2 :]}"
    is_ours = isinstance(error, (RemoteError, ContentMissing, StillRead))
    name = "" if is_ours and text else type(error).__name__
    return ": ".join(part for part in (name, text) if part)
