"""One contestant in one scenario: mounts, links, caches, and the measuring itself."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.cases import Case
from tests.bench.contestants import Contestant, Target, Writing
from tests.bench.mounts import DaemonMount
from tests.bench.nginx import Front
from tests.bench.plan import Act, Plan
from tests.bench.process_stats import (
    children_cpu_seconds,
    cpu_seconds,
    machine_busy_seconds,
    peak_rss_bytes,
    reset_peak_rss,
)
from tests.bench.profiling import profiled
from tests.bench.readers import Reader, WrongData
from tests.bench.remote import Remote
from tests.bench.remote_state import RemoteState, wait_for
from tests.bench.results import Measurement
from tests.bench.workers import Outcome, ReadersFailed, run_readers

FAR_LATENCY_MS = 30.0
FAR_BANDWIDTH_BYTES_S = 100_000_000
FILL_TIME_S = 90.0
_IDLE_POLL_S = 0.15
_STALE_MARGIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Meters:
    """Processor time of the machine and of the three who take part; `now_s` is monotonic."""

    now_s: float
    machine_s: float
    daemon_s: float
    server_s: float
    readers_s: float

    def __sub__(self, earlier: "Meters") -> "Meters":
        return Meters(
            self.now_s - earlier.now_s,
            self.machine_s - earlier.machine_s,
            self.daemon_s - earlier.daemon_s,
            self.server_s - earlier.server_s,
            self.readers_s - earlier.readers_s,
        )

    def others_cores(self) -> float:
        """How many cores somebody else kept busy, of a difference."""
        ours_s = self.daemon_s + self.server_s + self.readers_s
        return max(0.0, self.machine_s - ours_s) / self.now_s


class Stage:
    """`close` ends the daemon and removes its cache. Measurements go to `report` as they come."""

    def __init__(
        self,
        plan: Plan,
        server: Remote,
        contestant: Contestant,
        round_number: int,
        report: Callable[[Measurement], None],
    ) -> None:
        self.plan = plan
        self.round = round_number
        self.reported: set[str] = set()
        self.remote = server
        self.runner = contestant
        self._report = report
        self._mount: DaemonMount | None = None
        self.note = ""  # goes with the next measurement
        self._scratch = ""

    @property
    def contestant(self) -> str:
        return self.runner.name

    @property
    def mount(self) -> DaemonMount:
        assert self._mount is not None, "nothing is mounted"
        return self._mount

    def wants(self, *cases: str) -> bool:
        return any(case in self.plan.wanted for case in cases)

    # What surrounds a measurement

    def start(
        self, bucket: str, front: Front | None = None, writing: Writing | None = None
    ) -> None:
        """Mounts `bucket` with whatever the cache folder holds: nothing at first.

        Through `front` where there is one; the S3 server then sees no reads.
        """
        folder = self.plan.folder
        server = self.remote
        target = Target(
            endpoint=front.endpoint if front else server.endpoint,
            region=server.region,
            access_key=server.access_key,
            secret_key=server.secret_key,
            bucket=bucket,
            mountpoint=folder / "mnt",
            cache_dir=folder / "cache",
            writing=writing,
        )
        self._mount = DaemonMount(self.runner, target, folder / "daemon.log")

    def start_writing(
        self, writing: Writing, *, far: bool, keys: Sequence[str] = (), size: int = 0
    ) -> str:
        """Mounts a new bucket with these synthetic objects, and returns its name."""
        self.far() if far else self.near()
        self._scratch = bucket = f"bench-scratch-{time.monotonic_ns()}"
        self.remote.seed(bucket, keys=list(keys), size=size, mtime_s=1_700_000_000.0)
        self.start(bucket, writing=writing)
        return bucket

    def remount(self) -> None:
        """Ends the daemon and starts another one on the same cache."""
        bucket = self.mount.target.bucket
        time.sleep(self.runner.linger_s)
        self._stop()
        self.start(bucket)

    def far(self) -> None:
        """30 ms before each first byte, 100 MB/s per connection, as an object store has."""
        self.remote.set_knobs(latency_ms=FAR_LATENCY_MS, bandwidth_bytes_s=FAR_BANDWIDTH_BYTES_S)

    def near(self) -> None:
        self.remote.set_knobs(latency_ms=0.0, bandwidth_bytes_s=0)

    def wait_until_stale(self, ttl_s: float) -> None:
        """Until what was listed just now is not to be believed any more, by nobody."""
        self.remote.clear_log()
        time.sleep(ttl_s + _STALE_MARGIN_S)
        self.note = f"{len(self.remote.log())} requests while it was waited for"

    def fill(self, readers: Sequence[Reader]) -> Outcome:
        """Reads everything once from near, unmeasured."""
        self.near()
        outcome = run_readers(
            readers, self.mount.target.mountpoint, time_s=FILL_TIME_S, at_end=lambda: None
        )
        self._wait_until_idle(5.0)
        if not outcome.complete:
            self.note = f"cache not filled within {FILL_TIME_S:.0f} s"
        return outcome

    def fill_cache(self, readers: Sequence[Reader], size: int) -> None:
        """Fills until the remote is hardly asked any more, or as often as it gets better.

        A contestant may serve what it doesn't keep, or keep nothing; then the note says so.
        """
        before = 2 * size
        while True:
            self.remote.clear_log()
            self.fill(readers)
            served = sum(entry.bytes_sent for entry in self.remote.log(op="GetObject"))
            if served < size // 100:
                return
            if served > 0.9 * before:
                break
            before = served
            self.drop_page_cache()
        self.note = f"cache kept not all: {served / size:.0%} fetched again"

    def drop_page_cache(self) -> None:
        """The machine's page cache, and with it what the cache files have there; as root.

        Others can't; there a remount drops at least the mount's own pages.
        """
        self._wait_until_idle(5.0)
        os.sync()
        try:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        except OSError:
            self.note = "remounted, page cache of the cache files kept (not root)"
            self.remount()

    def close(self) -> None:
        try:
            self._stop()
        finally:
            self._mount = None
            if self._scratch:
                for key in self.remote.keys(self._scratch):
                    self.remote.delete(self._scratch, key)
            folder = self.plan.folder
            _put_aside(folder / "cache")
            with suppress(OSError):
                (folder / "mnt").rmdir()
                (folder / "daemon.log").unlink()

    # Measuring

    def measure(
        self,
        name: str,
        readers: Sequence[Reader],
        rate: Callable[[Outcome], float] | None = None,
    ) -> None:
        """Runs the readers for at most the plan's time and reports; nothing if not wanted. `rate`
        says what to make of it where the case's unit doesn't."""
        if not self.wants(name):
            return
        case = self.plan.cases[name]
        pid = self.mount.pid
        server_s = 0.0

        def stop_clock() -> None:
            nonlocal server_s
            server_s = self._server_cpu_seconds()

        self._wait_until_idle(5.0)
        self.remote.clear_log()
        reset_peak_rss(pid)
        label = f"{name}-{self.runner.name}-{self.round}"
        profiling = self.plan.profiling if self.runner.name == "mountd" else None
        with profiled(profiling, pid, label):
            before = self._meters()
            outcome = run_readers(
                readers, self.mount.target.mountpoint, time_s=self.plan.time_s, at_end=stop_clock
            )
            self._wait_until_idle(2.0)
            used = self._meters() - before
        share = (server_s - before.server_s) / outcome.elapsed_s
        self._finish(case, outcome, used, share, rate=rate)

    def measure_writing(self, act: Act) -> None:
        """Writes, waits until the remote has it all and compares; reports what is wanted of it.

        Nothing is reported of data that arrives wrong. What takes too long is `>` in the table.
        """
        self._wait_until_idle(5.0)
        self.remote.clear_log()
        reset_peak_rss(self.mount.pid)
        label = f"{act.case or act.until}-{self.runner.name}-{self.round}"
        profiling = self.plan.profiling if self.runner.name == "mountd" else None
        by_rate = act.case and not self.plan.cases[act.case].as_seconds
        with profiled(profiling, self.mount.pid, label):
            before = self._meters()
            done = run_readers(
                act.writers,
                self.mount.target.mountpoint,
                time_s=self.plan.time_s if by_rate else self.plan.long_s,
                at_end=lambda: None,
            )
            acted = self._meters() - before
            arrived = self._wait_for_arrival(act, done)
            used = self._meters() - before
        if arrived.complete:
            self._check(act.wanted(done))
        self._report_act(act, done, acted, arrived)
        if not act.until or not self.wants(act.until):
            return
        if done.complete or act.from_start:
            # Who writes slowly has sent much of it by the last close.
            whole_s = arrived.ended_s - (done.ended_s - done.elapsed_s)
            self.note = f"{whole_s:.1f} s from the start of the writing"
            share = used.server_s / used.now_s
            self._finish(self.plan.cases[act.until], arrived, used, share)
        else:
            what = f"{done.operations:,} operations in {done.elapsed_s:.0f} s"
            self.fail(act.until, f"did not get done writing: {what}")

    def _wait_for_arrival(self, act: Act, done: Outcome) -> Outcome:
        """Until the remote has what was done, as an outcome; not complete where it never had."""
        reached_s = None
        if done.complete or done.operations:  # of a program that was killed nothing is known
            state = act.wanted(done)
            reached_s = wait_for(state, self.remote, self.plan.long_s, self.mount.is_alive)
        ended_s = time.monotonic() if reached_s is None else reached_s
        since_s = done.ended_s - (done.elapsed_s if act.from_start else 0.0)
        # Who sends before close returns was never waited for.
        elapsed_s = max(0.001, ended_s - since_s)
        return replace(done, elapsed_s=elapsed_s, ended_s=ended_s, complete=reached_s is not None)

    def _check(self, state: RemoteState) -> None:
        try:
            state.check(self.remote)
        except WrongData as error:
            raise ReadersFailed(f"WrongData on the server: {error}") from error

    def _report_act(self, act: Act, done: Outcome, used: Meters, arrived: Outcome) -> None:
        if not act.case or not self.wants(act.case):
            return
        late_s = arrived.ended_s - done.ended_s
        if arrived.complete:
            self.note = f"on the remote {max(0.0, late_s):.1f} s after the last close"
        elif done.complete:
            self.note = f"not all on the remote {late_s:.0f} s after the last close"
        share = used.server_s / used.now_s
        self._finish(self.plan.cases[act.case], done, used, share, act.disk_mb_s)

    def fail(self, name: str, error: str) -> None:
        self.tell(Measurement(name, self.runner.name, self.round, error=error))

    def _finish(
        self,
        case: Case,
        outcome: Outcome,
        used: Meters,
        server_share: float,
        disk_mb_s: float = 0.0,
        rate: Callable[[Outcome], float] | None = None,
    ) -> None:
        entries = self.remote.log()
        gets = [entry for entry in entries if entry.op == "GetObject"]
        reached = rate(outcome) if rate is not None else rate_of(case, outcome)
        note, self.note = self.note, ""
        self.tell(
            Measurement(
                case=case.name,
                contestant=self.runner.name,
                round=self.round,
                rate=reached,
                elapsed_s=outcome.elapsed_s,
                operations=outcome.operations,
                complete=outcome.complete,
                bytes_asked=outcome.bytes_moved,
                bytes_served=sum(entry.bytes_sent for entry in gets),
                requests=len(entries),
                gets=len(gets),
                bytes_uploaded=sum(entry.bytes_received for entry in entries),
                daemon_cpu_s=used.daemon_s,
                peak_rss_bytes=peak_rss_bytes(self.mount.pid),
                server_share=server_share,
                others_cores=used.others_cores(),
                disk_mb_s=disk_mb_s,
                note=note,
                units=outcome.operations if rate is not None or case.as_share else 0.0,
            )
        )

    def _meters(self) -> Meters:
        return Meters(
            time.monotonic(),
            machine_busy_seconds(),
            cpu_seconds(self.mount.pid),
            self._server_cpu_seconds(),
            children_cpu_seconds(),
        )

    def _server_cpu_seconds(self) -> float:
        front = self.plan.front
        return self.remote.cpu_seconds() + (front.cpu_seconds() if front else 0.0)

    def tell(self, measurement: Measurement) -> None:
        """Reports one."""
        self.reported.add(measurement.case)
        self._report(measurement)

    def _stop(self) -> None:
        if self._mount is not None:
            self._mount.stop()
            self.note = self.note or self._mount.unclean

    def _wait_until_idle(self, limit_s: float) -> None:
        """Until the daemon hardly computes any more: no event tells when it has written its cache
        or dropped what it read ahead."""
        deadline_s = time.monotonic() + limit_s
        before_s = cpu_seconds(self.mount.pid)
        while time.monotonic() < deadline_s:
            time.sleep(_IDLE_POLL_S)
            now_s = cpu_seconds(self.mount.pid)
            if now_s - before_s <= 0.01:
                return
            before_s = now_s


def rate_of(case: Case, outcome: Outcome) -> float:
    """In the case's unit. What is shown as seconds and was cut short counts as if it had just
    finished: the most that it can have reached."""
    if case.as_seconds:
        return case.total / outcome.elapsed_s
    if case.as_share:
        return outcome.elapsed_s / max(outcome.waited_s, outcome.elapsed_s / 1000)
    if case.unit == "MB/s":
        return outcome.bytes_moved / 1e6 / outcome.elapsed_s
    return outcome.operations / outcome.elapsed_s


def _put_aside(cache: Path) -> None:
    """Empties a cache's files and keeps their inodes until the bench ends.

    ext4 gives no inode out again for minutes after its file was deleted, and looks at each one
    anew whenever it makes a file: the deletions between runs made a new file cost 1-4 ms instead
    of 0.1, for whoever keeps many files.
    """
    if not cache.exists():
        return
    for path in cache.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    cache.rename(Path(tempfile.mkdtemp(prefix="used-", dir=cache.parent)) / "cache")
