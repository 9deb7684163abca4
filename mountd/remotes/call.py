"""What a caller says about a request beside its arguments: is it prefetch, and until when.

The `RemoteStore` Protocol stays as it is: these are context variables, because
`trio.to_thread.run_sync` carries the calling task's context into the worker thread. A prefetch
task says `prefetching.set(True)` once, at its beginning, and every request it makes from then on
gives way to demand reads (`limit.py`).
"""

import math
from contextvars import ContextVar

prefetching: ContextVar[bool] = ContextVar("prefetching", default=False)

# `time.monotonic()` at which the caller stops caring. `RetryingStore` sets it for each call (never
# later than one that is set already); the limiter ends its waits by it; a store that can give
# each request its own timeout may use what is left.
deadline_s: ContextVar[float] = ContextVar("deadline_s", default=math.inf)
