"""The command line of `scripts/bench`, and the run itself."""

import argparse
import fnmatch
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from rich.console import Console

from tests.bench import nginx
from tests.bench.arena import Arena, nextcloud_arena, s3_arena, wants_nextcloud
from tests.bench.cases import FULL, QUICK, Case
from tests.bench.contestants import USUAL, Contestant, contestants
from tests.bench.machine import Disk, Machine, describe, probe_disk
from tests.bench.mounts import MountFailed
from tests.bench.nextcloud_remote import NextcloudRemote
from tests.bench.plan import Plan
from tests.bench.profiling import Profiling
from tests.bench.report import Results, markdown, print_results
from tests.bench.results import Measurement
from tests.bench.rows import all_cases
from tests.bench.scenarios import FRONT, MTIME_S, ONE_KEY
from tests.bench.stage import Stage
from tests.bench.workers import ReadersFailed
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server
from tests.servers.scripted import ROOT

_Server = TypeVar("_Server")
console = Console(stderr=True, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when everything that was wanted was measured, 1 when something failed or was
    interrupted; the tables show what there is, files are only written of a whole run."""
    options = _parser().parse_args(arguments)
    known = all_cases(QUICK if options.quick else FULL)
    if options.list:
        for case in known.values():
            print(f"{case.name:22} {case.title}")
        return 0
    if options.render:
        results, machine = load(Path(options.render))
    else:
        results, machine = _run(options, known)
    # A file or a pipe has no width of its own, and 80 columns would cut the tables' heads.
    width = None if sys.stdout.isatty() else 200
    print_results(Console(highlight=False, width=width), results, machine)
    if results.interrupted:
        return 1
    if options.json:
        save(Path(options.json), results, machine)
    if options.markdown:
        Path(options.markdown).write_text(markdown(results, machine))
    return 1 if any(run.error for run in results.runs) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures mountd beside rclone mount and s3fs over one S3 server or Nextcloud.",
        epilog="An experiment: scripts/bench --only seq-cold-30 --contestants mountd --rounds 1",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="less data, 4 s per case, one round")
    add("--only", action="append", metavar="PATTERN", help="cases by name, as in 'seq-*'")
    add("--list", action="store_true", help="name the cases and end")
    add("--rounds", type=int, metavar="N", help="default 3")
    add("--time", type=float, metavar="S", help="most seconds per case (12)")
    add("--contestants", default=",".join(USUAL), metavar="A,B", help="of " + ", ".join(USUAL))
    add("--nginx", action="store_true", help="also a row with nginx serving the ranges")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="-o for mountd: tuning")
    add("--no-check", action="store_true", help="don't compare whole files before reads")
    add("--json", metavar="FILE", help="all runs")
    add("--markdown", metavar="FILE", help="the tables, as docs/benchmarks.md has them")
    add("--render", metavar="FILE", help="measure nothing; the tables of an earlier --json")
    add("--folder", type=Path, metavar="DIR", help="where caches and mounts go: on a disk")
    add("--profile", type=Path, metavar="DIR", help="py-spy on mountd, a file per case")
    add("--flame", action="store_true", help="profiles as SVG instead of folded stacks")
    add("--native", action="store_true", help="profiles with native frames")
    add("--gil", action="store_true", help="profiles only of who holds the interpreter lock")
    return parser


def _run(options: argparse.Namespace, known: dict[str, Case]) -> tuple[Results, Machine]:
    chosen = _choose(options)
    plan_cases = _wanted(options, known)
    rounds = options.rounds or (1 if options.quick else 3)
    profiling = None
    if options.profile:
        profiling = Profiling(options.profile, options.flame, options.native, options.gil)
    load_before = os.getloadavg()[0]
    runs: list[Measurement] = []
    disk = Disk(0.0, 0.0)
    interrupted = False
    command = shlex.join(["scripts/bench", *sys.argv[1:]])
    with ExitStack() as stack:
        stack.enter_context(_stoppable())
        folder = stack.enter_context(_folder(options.folder))
        server = stack.enter_context(_deaf(S3Server()))
        plan = Plan(
            sizes=QUICK if options.quick else FULL,
            cases=known,
            wanted=plan_cases,
            time_s=options.time or (4.0 if options.quick else 12.0),
            folder=folder,
            profiling=profiling,
        )
        arenas = [s3_arena(server, plan, chosen)]
        if wants_nextcloud(plan_cases):
            cloud = NextcloudRemote(stack.enter_context(_deaf(NextcloudServer())))
            arenas.append(nextcloud_arena(cloud, plan, chosen))
        if options.nginx:
            plan = replace(plan, front=stack.enter_context(_front(server, plan)))
        if plan_cases & {"seq-warm", "rand-warm-1", "rand-warm-16"}:
            disk = probe_disk(folder)
        try:
            for arena in arenas:
                if arena.reads(plan) and not options.no_check:
                    _check_all(plan, arena)
            _play_rounds(plan, arenas, rounds, runs)
        except KeyboardInterrupt:
            interrupted = True
            console.print("interrupted; what was measured until then:")
    versions = [*chosen, *(each for arena in arenas[1:] for each in arena.contestants)]
    machine = describe(command, versions, load_before, disk)
    names = [each.name for each in chosen]
    peers = frozenset(each.name for each in chosen if each.peer)
    return Results(known, names, peers, runs, interrupted), machine


def _play_rounds(plan: Plan, arenas: Sequence[Arena], rounds: int, runs: list[Measurement]) -> None:
    def report(run: Measurement) -> None:
        runs.append(run)
        console.print(_line(plan.cases[run.case], run))

    for number in range(1, rounds + 1):
        for arena in arenas:
            _play_round(plan, arena, number, report)


def _play_round(
    plan: Plan, arena: Arena, number: int, report: Callable[[Measurement], None]
) -> None:
    chosen = arena.contestants
    # Another one goes first in every round.
    order = [*chosen[number % len(chosen) :], *chosen[: number % len(chosen)]] if chosen else []
    for scenario in arena.scenarios:
        wanted = [case for case in scenario.cases if case in plan.wanted]
        for contestant in order if wanted else ():
            stage = Stage(plan, arena.remote, contestant, number, report)
            try:
                scenario.play(stage)
            except (ReadersFailed, MountFailed, subprocess.SubprocessError) as error:
                for case in wanted:
                    if case not in stage.reported:
                        stage.fail(case, " ".join(str(error).split())[:300])
            finally:
                stage.close()


def _check_all(plan: Plan, arena: Arena) -> None:
    """Ends the run where a contestant reads anything but what the server has."""
    for contestant in arena.contestants:
        stage = Stage(plan, arena.remote, contestant, 0, lambda run: None)
        try:
            arena.check(stage)
            console.print(f"{contestant.name}: reads what the server has")
        except (ReadersFailed, MountFailed) as error:
            raise SystemExit(f"scripts/bench: {contestant.name}: {error}") from error
        finally:
            stage.close()


def _line(case: Case, run: Measurement) -> str:
    head = f"{run.round} {run.case:22} {run.contestant:13}"
    if run.error:
        return f"{head} failed: {run.error}"
    per_byte = run.bytes_served / run.bytes_asked if run.bytes_asked else 0.0
    return (
        f"{head} {run.rate:9,.1f} {case.unit:7} {run.operations:6} in {run.elapsed_s:5.2f} s  "
        f"cpu {run.daemon_cpu_s:5.2f} s  rss {run.peak_rss_bytes / 1e6:4.0f} MB  "
        f"server {run.server_share:4.0%}  others {run.others_cores:3.1f}  "
        f"{run.requests} requests, {per_byte:.2f} B/B {run.note}"
    )


def _choose(options: argparse.Namespace) -> list[Contestant]:
    known = contestants(options.option)
    chosen = []
    for name in options.contestants.split(","):
        if name not in known:
            raise SystemExit(f"scripts/bench: no contestant {name}; there are {', '.join(known)}")
        reason = known[name].missing()
        if reason:
            console.print(f"left out: {reason}")
        else:
            chosen.append(known[name])
    if not chosen:
        raise SystemExit("scripts/bench: nobody is left to measure")
    return chosen


def _wanted(options: argparse.Namespace, known: dict[str, Case]) -> frozenset[str]:
    if options.nginx and nginx.missing():
        raise SystemExit(f"scripts/bench: {nginx.missing()}")
    known = {name: case for name, case in known.items() if options.nginx or "nginx" not in name}
    if not options.only:
        return frozenset(known)
    found = {name for pattern in options.only for name in fnmatch.filter(known, pattern)}
    if not found:
        raise SystemExit(f"scripts/bench: no case is called so; there are {', '.join(known)}")
    return frozenset(found)


@contextmanager
def _folder(parent: Path | None) -> Iterator[Path]:
    """A folder for caches and mount points, removed at the end. /tmp would often be memory."""
    if parent is None:
        beside = ROOT.parent / "tmp"
        parent = beside if beside.is_dir() else Path("/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _deaf(server: AbstractContextManager[_Server]) -> Iterator[_Server]:
    """Started deaf to Ctrl-C, which the terminal sends to it as well: we end it, last."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with server as started:
            signal.signal(signal.SIGINT, before)
            yield started
    finally:
        signal.signal(signal.SIGINT, before)


def _front(server: S3Server, plan: Plan) -> AbstractContextManager[nginx.Front]:
    folder = plan.folder / "nginx"
    folder.mkdir()
    size = plan.sizes.one_bytes
    return nginx.running_front(
        server, folder, bucket=FRONT, key=ONE_KEY, size=size, mtime_s=MTIME_S
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    kept = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)


def save(path: Path, results: Results, machine: Machine) -> None:
    """Everything that `load` needs to make the tables again."""
    cases = list(all_cases(FULL).values()) == list(results.cases.values())
    record = {
        "machine": asdict(machine),
        "full": cases,
        "contestants": list(results.contestants),
        "peers": sorted(results.peers),
        "runs": [asdict(run) for run in results.runs],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def load(path: Path) -> tuple[Results, Machine]:
    record = json.loads(path.read_text())
    facts = record["machine"]
    facts |= {"disk": Disk(**facts["disk"]), "versions": tuple(facts["versions"])}
    results = Results(
        all_cases(FULL if record["full"] else QUICK),
        record["contestants"],
        frozenset(record["peers"]),
        [Measurement(**run) for run in record["runs"]],
    )
    return results, Machine(**facts)
