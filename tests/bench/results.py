"""From single runs to the table: medians, ratios against the better rclone row, verdicts. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.cases import DISK_CAP_MB_S, RSS_GOAL_BYTES, SERVER_BUSY_SHARE, Case


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one case by one contestant.

    `rate` is in the case's unit. Requests and bytes are the server's count, daemon CPU includes
    what the daemon still did in the 0.3 s after the last reader stopped, `server_share` is of
    one core while the readers ran. `others_cores` is what neither daemon nor server nor readers
    used meanwhile: above some 0.1 the machine was not ours. `disk_mb_s` is what dd reached beside
    it. A run with an `error` has no rate.
    """

    case: str
    contestant: str
    round: int
    rate: float = 0.0
    elapsed_s: float = 0.0
    operations: int = 0
    complete: bool = False
    bytes_asked: int = 0
    bytes_served: int = 0
    requests: int = 0
    gets: int = 0
    bytes_uploaded: int = 0
    daemon_cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    server_share: float = 0.0
    others_cores: float = 0.0
    disk_mb_s: float = 0.0
    note: str = ""
    error: str = ""
    units: float = 0.0  # where the rate is not that of what was done


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one case by one contestant: medians, and the rate's spread."""

    rate: float
    lowest: float
    highest: float
    complete: bool
    bytes_per_byte: float
    gets_per_operation: float
    requests_per_run: float
    bytes_uploaded: float
    disk_mb_s: float
    cpu_s_per_run: float
    cpu_ms_per_unit: float
    peak_rss_bytes: int
    server_share: float
    others_cores: float
    rounds: int
    notes: tuple[str, ...]
    error: str


def summarize(runs: Sequence[Measurement]) -> Summary:
    """Of at least one run. One failed run fails the summary: an error is never averaged away."""
    errors = [run.error for run in runs if run.error]
    good = [run for run in runs if not run.error]

    def middle(value: Callable[[Measurement], float]) -> float:
        return median(map(value, good)) if good else 0.0

    rates = [run.rate for run in good] or [0.0]
    return Summary(
        rate=median(rates),
        lowest=min(rates),
        highest=max(rates),
        complete=all(run.complete for run in good),
        bytes_per_byte=middle(lambda run: _ratio(run.bytes_served, run.bytes_asked)),
        gets_per_operation=middle(lambda run: _ratio(run.gets, run.operations)),
        requests_per_run=middle(lambda run: run.requests),
        bytes_uploaded=middle(lambda run: run.bytes_uploaded),
        disk_mb_s=middle(lambda run: run.disk_mb_s),
        cpu_s_per_run=middle(lambda run: run.daemon_cpu_s),
        cpu_ms_per_unit=middle(lambda run: 1000 * _ratio(run.daemon_cpu_s, _units(run))),
        peak_rss_bytes=max((run.peak_rss_bytes for run in good), default=0),
        server_share=middle(lambda run: run.server_share),
        others_cores=middle(lambda run: run.others_cores),
        rounds=len(runs),
        notes=tuple(sorted({run.note for run in runs if run.note})),
        error=errors[0] if errors else "",
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ratio` is None where there is nothing to compare with. `failed` are the goals missed."""

    ratio: float | None
    failed: tuple[str, ...]
    server_busy: bool


def judge(case: Case, ours: Summary, peers: Iterable[Summary]) -> Verdict:
    """mountd's row against the better of the peers that have one."""
    rivals = [peer for peer in peers if not peer.error and peer.rate > 0]
    best = max((peer.rate for peer in rivals), default=0.0)
    ratio = ours.rate / best if best and not ours.error else None
    busy = any(each.server_share > SERVER_BUSY_SHARE for each in (ours, *rivals))
    goal = case.goal
    if ours.error:
        return Verdict(None, ("error",), busy)
    if goal is None:
        return Verdict(ratio, (), busy)
    failed = []
    if ratio is not None and ratio < goal.ratio:
        failed.append(f"< {goal.ratio:g}x")
    if goal.rate and ours.rate < goal.rate:
        failed.append(f"< {goal.rate:g} {case.unit}")
    if goal.bytes_per_byte and ours.bytes_per_byte > goal.bytes_per_byte:
        failed.append(f"{ours.bytes_per_byte:.1f} bytes per byte > {goal.bytes_per_byte:g}")
    limit = goal.requests_per_operation
    if limit and ours.gets_per_operation > limit:
        failed.append(f"{ours.gets_per_operation:.2f} requests per read")
    disk_mb_s = goal.disk_share * min(ours.disk_mb_s, DISK_CAP_MB_S)
    if ours.rate < disk_mb_s:
        failed.append(f"< {goal.disk_share:.0%} of dd's {ours.disk_mb_s:,.0f} MB/s")
    if goal.uploaded_bytes and ours.bytes_uploaded > goal.uploaded_bytes:
        failed.append(f"{ours.bytes_uploaded / 2**20:,.0f} MiB uploaded")
    if goal.requests and ours.requests_per_run > goal.requests:
        failed.append(f"{ours.requests_per_run:,.0f} requests")
    if ours.peak_rss_bytes > RSS_GOAL_BYTES:
        failed.append(f"RSS > {RSS_GOAL_BYTES // 10**6} MB")
    return Verdict(ratio, tuple(failed), busy)


def _units(run: Measurement) -> float:
    """What CPU time is divided by: operations, or MB for what is measured in MB/s."""
    return run.units or run.rate * run.elapsed_s


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
