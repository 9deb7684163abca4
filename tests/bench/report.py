"""Tables: rates with ratios and verdicts, and what they cost; for the terminal and as markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.cases import RSS_GOAL_BYTES, SERVER_BUSY_SHARE, Case
from tests.bench.machine import Machine
from tests.bench.results import Measurement, Summary, Verdict, judge, summarize

OURS = "mountd"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it has a form: a title, the columns' heads, rows of cells, notes below."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured; `contestants` in the order of the columns, `peers` are rclone's."""

    cases: dict[str, Case]
    contestants: Sequence[str]
    peers: frozenset[str]
    runs: Sequence[Measurement]
    interrupted: bool = False

    def summary(self, case: str, contestant: str) -> Summary | None:
        runs = [run for run in self.runs if (run.case, run.contestant) == (case, contestant)]
        return summarize(runs) if runs else None

    def verdict(self, case: str) -> Verdict | None:
        ours = self.summary(case, OURS)
        if ours is None:
            return None
        peers = (self.summary(case, peer) for peer in self.contestants if peer in self.peers)
        return judge(self.cases[case], ours, (peer for peer in peers if peer is not None))

    def measured(self) -> list[Case]:
        found = {run.case for run in self.runs}
        return [case for name, case in self.cases.items() if name in found]


def rates(results: Results) -> Grid:
    """A row per case: each contestant's median and spread, the ratio, the goal, and whether."""
    heads = ["case", *results.contestants, "ratio", "goal", "met"]
    rows, notes = [], []
    for case in results.measured():
        cells = [_rate(case, results.summary(case.name, each)) for each in results.contestants]
        verdict = results.verdict(case.name)
        mark = " *" if verdict and verdict.server_busy else ""
        rows.append([case.title + mark, *cells, *_verdict_cells(case, verdict)])
        for each in results.contestants:
            summary = results.summary(case.name, each)
            if summary is not None:
                said = [summary.error] if summary.error else summary.notes
                notes += [f"{case.title}, {each}: {text}" for text in said]
    rows.append(_memory_row(results))
    if any(row[0].endswith(" *") for row in rows):
        notes.append(f"* the server used over {SERVER_BUSY_SHARE:.0%} of a core in this row")
    return Grid("Rates: median (lowest to highest)", heads, rows, notes)


def costs(results: Results) -> Grid:
    """A row per case and contestant: what the rate cost the machine and the remote."""
    heads = ["case", "contestant", "daemon CPU s", "ms per unit", "peak RSS MB"]
    heads += ["server core", "others' cores", "bytes per byte", "GETs per operation"]
    heads += ["requests", "MB uploaded"]
    rows = []
    for case in results.measured():
        for each in results.contestants:
            summary = results.summary(case.name, each)
            if summary is None or summary.error:
                continue
            per_operation = "" if case.unit == "MB/s" else f"{summary.gets_per_operation:.2f}"
            rows.append(
                [
                    case.name,
                    each,
                    f"{summary.cpu_s_per_run:.2f}",
                    f"{summary.cpu_ms_per_unit:.3f}",
                    f"{summary.peak_rss_bytes / 1e6:.0f}",
                    f"{summary.server_share:.0%}",
                    f"{summary.others_cores:.1f}",
                    f"{summary.bytes_per_byte:.2f}",
                    per_operation,
                    f"{summary.requests_per_run:,.0f}",
                    f"{summary.bytes_uploaded / 1e6:,.1f}",
                ]
            )
    return Grid("Costs: medians, RSS the highest", heads, rows, [])


def machine_lines(machine: Machine) -> list[str]:
    disk = machine.disk
    lines = [
        f"{machine.date}, `{machine.command}`",
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:g} GiB, "
        f"{machine.system}, Linux {machine.kernel}, Python {machine.python}",
        f"Load average {machine.load_before:.1f} before, {machine.load_after:.1f} after.",
    ]
    if disk.sequential_mb_s:
        lines.append(
            f"The disk alone, page cache dropped: {disk.sequential_mb_s:,.0f} MB/s in sequence, "
            f"{disk.random_4k_s:,.0f} random reads of 4 KiB per second."
        )
    return lines + list(machine.versions)


def print_results(console: Console, results: Results, machine: Machine) -> None:
    for line in machine_lines(machine):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for grid in (rates(results), costs(results)):
        table = Table(title=grid.title, title_justify="left")
        for number, head in enumerate(grid.heads):
            table.add_column(head, justify="left" if number == 0 else "right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
        for note in grid.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)


def markdown(results: Results, machine: Machine) -> str:
    """What docs/benchmarks.md holds, but its heading."""
    parts = ["".join(f"- {line}\n" for line in machine_lines(machine))]
    for grid in (rates(results), costs(results)):
        lines = [_markdown_row(grid.heads), _markdown_row(["---"] * len(grid.heads))]
        lines += [_markdown_row(row) for row in grid.rows]
        parts.append(f"## {grid.title}\n\n" + "\n".join(lines) + "\n")
        if grid.notes:
            parts.append("".join(f"- {note}\n" for note in grid.notes))
    return "\n".join(parts)


def _rate(case: Case, summary: Summary | None) -> str:
    if summary is None:
        return "-"
    if summary.error:
        return "failed"
    rates = (summary.rate, summary.lowest, summary.highest)
    if case.as_seconds:
        middle, high, low = (f"{case.total / rate:.2f}" for rate in rates)
        text = f"{'' if summary.complete else '> '}{middle} s"
    elif case.as_share:
        middle, high, low = (f"{1 / rate:.0%}" for rate in rates)
        text = middle
    else:
        middle, low, high = map(_number, rates)
        text = f"{middle} {case.unit}"
    return text if summary.rounds == 1 else f"{text} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _verdict_cells(case: Case, verdict: Verdict | None) -> list[str]:
    goal = "" if case.goal is None or not case.goal.ratio else f">= {case.goal.ratio:g}x"
    if case.goal is not None and case.goal.rate:
        goal += f"{', ' if goal else '>= '}{case.goal.rate:g} {case.unit}"
    if case.goal is not None and case.goal.bytes_per_byte:
        goal += f", <= {case.goal.bytes_per_byte:g} B/B"
    if case.goal is not None and case.goal.disk_share:
        goal += f", {case.goal.disk_share:.0%} of dd"
    if case.goal is not None and case.goal.uploaded_bytes:
        goal += f", <= {case.goal.uploaded_bytes >> 20} MiB sent"
    if case.goal is not None and case.goal.requests:
        goal += f", {case.goal.requests} request{'s' if case.goal.requests > 1 else ''}"
    if verdict is None:
        return ["", goal, ""]
    ratio = "" if verdict.ratio is None else f"{verdict.ratio:.1f}x"
    if case.goal is None:
        return [ratio, goal, ""]
    if verdict.failed:
        return [ratio, goal, "no: " + "; ".join(verdict.failed)]
    return [ratio, goal, "" if verdict.ratio is None else "yes"]


def _memory_row(results: Results) -> list[str]:
    cells, ours = [], 0
    for each in results.contestants:
        peaks = [run.peak_rss_bytes for run in results.runs if run.contestant == each]
        peak = max(peaks, default=0)
        cells.append(f"{peak / 1e6:,.0f} MB" if peak else "-")
        ours = peak if each == OURS else ours
    met = "" if not ours else "yes" if ours <= RSS_GOAL_BYTES else "no"
    return ["peak RSS in all of the above", *cells, "", f"<= {RSS_GOAL_BYTES // 10**6} MB", met]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
