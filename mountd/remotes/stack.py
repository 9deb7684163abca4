"""How the wrappers stand on one another; the only place that knows the order.

HealthStore       fails at once while the remote is down; outermost, so that nothing below runs
RetryingStore     sleeps between attempts, holding no slot
LimitedStore      one slot per request on the wire
CountingStore     innermost: what really goes over the wire, retries and probes too
"""

from mountd.config import Settings
from mountd.remotes.base import RemoteStore
from mountd.remotes.counting import CountingStore
from mountd.remotes.health import HealthStore, RemoteHealth
from mountd.remotes.limit import LimitedStore, Limiter
from mountd.remotes.retry import RetryingStore


class RemoteStack:
    """One remote as the daemon uses it: `store` for requests, the rest for status."""

    def __init__(self, native: RemoteStore, settings: Settings) -> None:
        self.counting = CountingStore(native)
        self.health = RemoteHealth(self.first_page)
        self.limiter = Limiter(
            native.capabilities.max_parallel,
            bandwidth_down=settings.bandwidth_down,
            interrupt=self.health.interrupt,
        )
        self.health.subscribe(lambda snapshot: self.limiter.expel())
        limited = LimitedStore(self.counting, self.limiter, self.health.small_took)
        retrying = RetryingStore(
            limited,
            settings.request_timeout_s,
            observer=self.health,
            interrupt=self.health.interrupt,
        )
        self.store: RemoteStore = HealthStore(retrying, self.health)

    def first_page(self) -> object:
        """One cheap request that proves remote, bucket and credentials. Blocking.

        Past retries and limiter: requests that hang may hold every slot until their timeouts.
        """
        return next(iter(self.counting.list("")), None)
