"""What a caller says about a request beside its arguments: is it prefetch, and until when.

The `RemoteStore` Protocol stays as it is: these are context variables, because
`trio.to_thread.run_sync` carries the calling task's context into the worker thread. A prefetch
task says `prefetching.set(True)` once, at its beginning, and every request it makes from then on
gives way to demand reads (`limit.py`).
"""

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar

prefetching: ContextVar[bool] = ContextVar("prefetching", default=False)

# `time.monotonic()` at which the caller stops caring. `RetryingStore` sets it for each call (never
# later than one that is set already); the limiter ends its waits by it; a store that can give
# each request its own timeout may use what is left.
deadline_s: ContextVar[float] = ContextVar("deadline_s", default=math.inf)

# Told the object metadata that came with the answer to a `read`, by stores whose listings don't
# have it. Costs nothing, where a `stat` would be a request more.
hears_metadata: ContextVar[Callable[[Mapping[str, str]], None] | None] = ContextVar(
    "hears_metadata", default=None
)


def _nothing() -> None:
    """Nobody counts the requests at once."""


# Called by a store in the midst of a `read` when the body is here and only a small look is left to
# do, which others may share: from then on the read is none of the requests at once.
body_is_here: ContextVar[Callable[[], None]] = ContextVar("body_is_here", default=_nothing)

# Where a store that can puts the bytes of a `read`; it returns a view of that then. The caller's
# again as soon as the `read` has ended, in whatever way. Of a body that is read whole there are two
# copies in memory while it is put together.
reads_into: ContextVar[memoryview | None] = ContextVar("reads_into", default=None)

# A put gets the time of a small request, and what its bytes take at this rate.
SLOWEST_UPLOAD_BYTES_PER_S = 64 * 1024


def upload_timeout_s(timeout_s: float, size_bytes: int) -> float:
    """How long a put of that size may take as a whole, where a small request may take
    `timeout_s`. A remote that stands still is noticed earlier by the store, where it can be."""
    return timeout_s + size_bytes / SLOWEST_UPLOAD_BYTES_PER_S
