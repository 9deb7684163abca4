"""What others see of a mount over HTTP: `/metrics`, `/healthz` and `/readyz` (docs/metrics.md).

Only where the option `metrics` is given. Readings are made on the loop's thread from what is in
memory, pages of them in the server's own.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import trio

from mountd.control.http_server import Answer, HttpServer, Page, address_of, listen
from mountd.mount_table import mount_at, read_mounts
from mountd.remotes.latency import Latencies

if TYPE_CHECKING:
    from mountd.control.metrics import Reading

log = logging.getLogger(__name__)

# `degraded` answers, with failures or slowly: a program that reads or writes gets on.
_REACHABLE = ("ok", "degraded")
_NOT_TAKEN = {"refused": "refuses writes", "full": "has no room for what is written"}


class Requests(Protocol):
    """What the kernel asked for: `fusefs.requests.RequestCounts`."""

    @property
    def calls(self) -> Mapping[str, int]: ...
    @property
    def refused(self) -> Mapping[tuple[str, int], int]: ...


class Observing:
    """Listens from its making on, so that a port that is taken ends a start at once (StartError);
    answers while `serve` runs. `requests` is told once there are any."""

    def __init__(
        self,
        address: str,
        status: Callable[[], dict[str, Any]],
        latencies: Latencies,
        wasted_bytes: Callable[[], int],
    ) -> None:
        # Here, where no loop waits yet: prometheus-client takes 100 ms.
        from mountd.control import metrics

        self._make = metrics.Reading
        self._status = status
        self._latencies = latencies
        self._wasted_bytes = wasted_bytes
        self._version = version("mountd")
        self._python = platform.python_version()
        self.requests: Requests | None = None
        listener = listen(address)
        self.address = address_of(listener)
        pages: dict[str, Page[Reading]] = {
            "/metrics": _metrics,
            "/healthz": _alive,
            "/readyz": _ready,
        }
        self._server: HttpServer[Reading] = HttpServer(listener, pages)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        token = trio.lowlevel.current_trio_token()

        def ask(take: Callable[[Reading | None], None]) -> None:
            token.run_sync_soon(lambda: take(self._try_to_read()))

        self._server.start(ask)
        log.info("http://%s/metrics, /healthz and /readyz are served", self.address)
        task_status.started()
        await trio.sleep_forever()

    def close(self) -> None:
        """Blocks for as long as a page takes to be made."""
        self._server.stop()

    def _try_to_read(self) -> Reading | None:
        try:
            return self._read()
        except Exception:  # would end the loop
            log.exception("the metrics could not be read")
            return None

    def _read(self) -> Reading:
        """On the loop's thread: some 50 us, and no more for a long queue (`Tally.counts`)."""
        status = self._status()
        requests = self.requests
        return self._make(
            status,
            self._version,
            self._python,
            status["queue"]["open_for_writing"],
            self._wasted_bytes(),
            dict(requests.calls) if requests is not None else {},
            dict(requests.refused) if requests is not None else {},
            self._latencies.histograms(),
            self._latencies.failed(),
        )


def _metrics(reading: Reading | None) -> Answer:
    if reading is None:
        return _STUCK
    from mountd.control.metrics import CONTENT_TYPE, exposition

    return Answer(200, exposition(reading), CONTENT_TYPE)


def _alive(reading: Reading | None) -> Answer:
    return _STUCK if reading is None else Answer.line(200, "alive")


def _ready(reading: Reading | None) -> Answer:
    if reading is None:
        return _STUCK
    status = reading.status
    remote, mountpoint = status["remote"], status["mountpoint"]
    if status["state"] != "ready":
        return Answer.line(503, f"not ready: {mountpoint} is {status['state']}")
    if mount_at(mountpoint, read_mounts()) is None:
        return Answer.line(503, f"not ready: nothing is mounted at {mountpoint} any more")
    if remote["state"] not in _REACHABLE:
        why = f"{remote['state']} since {remote['since']}: {remote['last_error']}"
        return Answer.line(503, f"not ready: {status['source']} is {why}")
    writes = remote["writes"]
    if (what := _NOT_TAKEN.get(writes["state"])) is not None:
        # Ready all the same: reading works, and taking it out of service, or a restart, mends
        # nothing that the remote refuses.
        why = f"since {writes['since']}: {writes['reason']}"
        return Answer.line(200, f"ready, but {status['source']} {what} {why}")
    if remote["state"] != "ok":
        why = f"{remote['state']} since {remote['since']}: {remote['last_error']}"
        return Answer.line(200, f"ready, but {status['source']} is {why}")
    return Answer.line(200, "ready")


_STUCK = Answer.line(503, "the daemon does not answer: its loop is busy or stuck, or has ended")
