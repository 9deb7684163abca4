"""The first request of a mount. Of a SOURCE that was never here it decides whether there is one.
What was mounted here before is mounted in any case, and whoever mounts hears what is refused.
"""

import logging
from collections.abc import Callable, Collection
from typing import Final

import trio

from mountd.errors import (
    ContainerMissing,
    CredentialsError,
    Denied,
    NotFound,
    RemoteError,
    SignInRefused,
    StartError,
    Throttled,
    Unreachable,
    UnreachableError,
)

log = logging.getLogger(__name__)

# A mount that is known comes up within 2 s, whatever the remote does.
_TOLD_WITHIN_S: Final = 0.7


class FirstLook:
    """`prove` or `look`, once. In the loop's thread; `first_page` in another."""

    def __init__(
        self, first_page: Callable[[], object], source: str, credentials: Collection[str]
    ) -> None:
        """`credentials`: the names of those that were given."""
        self._first_page = first_page
        self._source = source
        self._credentials = credentials
        self._has_ended = trio.Event()
        self._refusal = ""

    async def prove(self) -> None:
        """Raises CredentialsError or UnreachableError."""
        try:
            await trio.to_thread.run_sync(self._first_page, abandon_on_cancel=True)
        except RemoteError as exc:
            raise self._start_error(exc) from exc
        finally:
            self._has_ended.set()

    async def look(self) -> None:
        """So that the status tells the truth. Raises nothing."""
        try:
            await trio.to_thread.run_sync(self._first_page, abandon_on_cancel=True)
        except NotFound:  # an empty prefix, as for health
            pass
        except RemoteError as exc:
            log.warning("%s; serving what is cached", self._start_error(exc))
            if isinstance(exc, Denied | ContainerMissing):
                self._refusal = str(self._start_error(exc))
        except Exception:
            log.exception("looking at %s failed in an unforeseen way", self._source)
        finally:
            self._has_ended.set()

    async def refusal(self) -> str:
        """What is wrong with what was typed, if that is known soon; else ""."""
        with trio.move_on_after(_TOLD_WITHIN_S):
            await self._has_ended.wait()
        return self._refusal

    def _start_error(self, error: RemoteError) -> StartError:
        if isinstance(error, Denied):
            why = f"{self._source} refuses these credentials: {error}"
            if isinstance(error, SignInRefused) and {"user", "token"} & set(self._credentials):
                why = f"{self._source} refuses user and password or token: {error}"
            return CredentialsError(why)
        if isinstance(error, ContainerMissing | NotFound):
            return UnreachableError(f"{self._source} does not exist: {error}")
        if isinstance(error, Unreachable | Throttled):
            return UnreachableError(f"{self._source} does not answer: {error}")
        return UnreachableError(f"{self._source} can't be listed: {error}")
