"""How the wrappers stand on one another; the only place that knows the order.

HealthStore       fails at once while the remote is down; outermost, so that nothing below runs
RetryingStore     sleeps between attempts of a read, holding no slot; writes have one attempt
LimitedStore      one slot per request on the wire; uploads have limits of their own
CountingStore     innermost: what really goes over the wire, retries and probes too
"""

from mountd.config import Settings
from mountd.remotes.base import RemoteStore
from mountd.remotes.counting import CountingStore
from mountd.remotes.health import RemoteHealth
from mountd.remotes.health_store import HealthStore
from mountd.remotes.limit import Limiter
from mountd.remotes.limited_store import LimitedStore, Uploads
from mountd.remotes.retry import RetryingStore

# Uploads of small files that may be under way for each of `max_transfers`.
SMALL_PER_TRANSFER = 4
# With fewer slots small uploads may have all: what else comes waits for the end of one, at most.
_FEW_SLOTS = 8
# So many more are begun, and wait for the end of another: its slot would stand empty until the loop
# has settled what ended and begun the next, 5 to 20 ms where programs want the processor, too.
_BEGUN_AHEAD = 8


class RemoteStack:
    """One remote as the daemon uses it: `store` for requests, the rest for status.
    `most_small_uploads`: how many small files may be begun at most."""

    def __init__(self, native: RemoteStore, settings: Settings) -> None:
        self.counting = CountingStore(native)
        self.health = RemoteHealth(self.first_page)
        bears, transfers = native.capabilities, settings.max_transfers
        self.limiter = Limiter(
            bears.max_parallel,
            bandwidth_down=settings.bandwidth_down,
            interrupt=self.health.interrupt,
            parallel_now=bears.parallel_now,
        )
        # Where the remote's own answers tell how many it bears, they are limit enough.
        learned = bears.max_parallel if bears.parallel_now is not None else 0
        self._most_small = max(SMALL_PER_TRANSFER * transfers, learned)
        most_small = _small_at_once(bears.max_parallel, self._most_small)
        self.most_small_uploads = _begun(most_small)
        self.uploads = Uploads(
            _uploads_at_once(bears.first_parallel, transfers),
            most_small,
            light_now=lambda: _small_at_once(self.limiter.parallel, self._most_small),
            bandwidth_up=settings.bandwidth_up,
            interrupt=self.health.interrupt,
        )
        if bears.tell_wider is not None:  # the uploads' slots come first: these wait for both
            bears.tell_wider(self.uploads.light.look_again)
            bears.tell_wider(self.limiter.look_again)
        self.health.subscribe(lambda snapshot: self.limiter.expel())
        self.health.subscribe(lambda snapshot: self.uploads.limiter.expel())
        self.health.subscribe(lambda snapshot: self.uploads.light.expel())
        limited = LimitedStore(
            self.counting, self.limiter, self.health.small_took, uploads=self.uploads
        )
        retrying = RetryingStore(
            limited,
            settings.request_timeout_s,
            observer=self.health,
            interrupt=self.health.interrupt,
        )
        self.store: RemoteStore = HealthStore(retrying, self.health)

    def small_uploads(self) -> int:
        """How many small files may be begun by now."""
        return _begun(self.uploads.light.parallel)

    def first_page(self) -> object:
        """One cheap request that proves remote, bucket and credentials. Blocking.

        Past retries and limiter: requests that hang may hold every slot until their timeouts.
        """
        return next(iter(self.counting.list("")), None)


def for_one_command(native: RemoteStore, settings: Settings) -> RemoteStore:
    """A store for a command that ends when the remote is down: as above, without health, and with
    every slot for its uploads."""
    bears = native.capabilities
    parallel = bears.max_parallel
    limited = LimitedStore(
        native,
        Limiter(parallel, bandwidth_down=settings.bandwidth_down, parallel_now=bears.parallel_now),
        uploads=Uploads(parallel, bandwidth_up=settings.bandwidth_up),
    )
    return RetryingStore(limited, settings.request_timeout_s)


def _uploads_at_once(max_parallel: int, max_transfers: int) -> int:
    """A quarter of the slots is for the others, where there is more than one."""
    return max(1, min(max_transfers, max_parallel - -(-max_parallel // 4)))


def _small_at_once(max_parallel: int, max_small: int) -> int:
    """One ends each few milliseconds: an eighth of the slots, if not few, is for the others."""
    kept = max_parallel // _FEW_SLOTS
    return max(1, min(max_small, max_parallel - kept))


def _begun(at_once: int) -> int:
    return at_once + min(at_once // 2, _BEGUN_AHEAD)
