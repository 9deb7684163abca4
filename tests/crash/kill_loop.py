"""Kills the real daemon, again and again, during a mixed load, and checks all that it acknowledged.

    python -m tests.crash.kill_loop --kills 300 --seed 7

A loss, a hang or a leftover ends it with 1, and its folder stays. `kill_loop_points.py` says at
which moments it kills, `kill_loop_load.py` and `kill_loop_sqlite.py` what is done meanwhile.
"""

import argparse
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.crash.kill_loop_disturb import Weather, choose_weather
from tests.crash.kill_loop_figures import Figures
from tests.crash.kill_loop_points import (
    IN_CREATE,
    IN_MOVED_TO,
    AtFile,
    AtRandom,
    Point,
    points,
)
from tests.crash.kill_loop_processes import BUCKET, Broken, Daemon, WorkerProcess
from tests.crash.kill_loop_remote import differences, digests_seen_by
from tests.crash.kill_loop_worker import NAMES, first_files
from tests.servers.s3.launch import S3Server

MOST_LOAD_S = 8.0  # a checkpoint comes 5 s after the start
PATIENCE_S = 20.0
FLUSH_WITHIN_S = 90
UNSENT = "random|checkpoint|log is|is made"  # points that come although nothing is sent


@dataclass(frozen=True, slots=True)
class Plan:
    kills: int
    seed: int
    time_s: float
    drain_every: int
    is_quick: bool  # no point that has to be waited for
    keeps_going: bool
    workers: tuple[str, ...] = NAMES
    points: str = ""  # regular expressions: only these
    weather: str = ""


class KillLoop:
    """One run. `run` is the door; it leaves nothing running or mounted."""

    def __init__(self, plan: Plan, folder: Path, server: S3Server) -> None:
        self.figures = Figures()
        self._plan = plan
        self._folder = folder
        self._server = server
        self._rng = random.Random(plan.seed)
        self._daemon = Daemon(folder, server.environment())
        self._workers: list[WorkerProcess] = []
        self._is_up = False

    def run(self) -> None:
        """Raises Broken. Losses are in the figures."""
        began_s = time.monotonic()
        try:
            self._seed_remote()
            for name in self._plan.workers:
                mountpoint = self._daemon.mountpoint
                self._workers.append(WorkerProcess(name, mountpoint, self._folder, self._plan.seed))
            number = 0
            while self._may_go_on(began_s):
                number += 1
                self._round(number)
            self._last_look()
        finally:
            for worker in self._workers:
                worker.clean_up()
            self._daemon.clean_up()

    def _may_go_on(self, began_s: float) -> bool:
        plan = self._plan
        is_time = time.monotonic() - began_s < plan.time_s
        return is_time and sum(self.figures.kills.values()) < plan.kills

    def _seed_remote(self) -> None:
        self._server.make_bucket(BUCKET)
        for name in self._plan.workers:
            for path, data in first_files(name, self._plan.seed).items():
                self._server.put(BUCKET, f"{name}/{path}", data)

    # -- one round

    def _round(self, number: int) -> None:
        rng = self._rng
        is_down = number > 1 and rng.random() < 0.12
        if is_down:
            self._server.refuse_connections()
        if number > 1 and rng.random() < 0.12:
            self._kill_while_starting()
        # What was sent can't be lost any more: so that the journal has much to keep, often nothing
        # is sent for a while.
        is_sent = rng.random() < 0.6
        took_s = self._start(write_back_s=rng.choice((0, 0.2, 1)) if is_sent else 60)
        self._look(is_down=is_down)
        if is_down:
            self._server.accept_connections()
            self._look(came_back=True)
        if number % self._plan.drain_every == 0:
            self._drain()
        weather = self._choose_weather()
        if is_down and weather.is_calm:
            weather = replace(weather, name="just back")
        point, died = self._load_until_killed(number, weather, is_sent=is_sent)
        state = "down" if is_down else "up"
        print(
            f"{number:4} restart {took_s:5.2f} s, remote {state}; {weather.name}; "
            f"{'' if is_sent else 'nothing is sent; '}killed: {point}"
            f"{' (not reached)' if not died else ''}",
            flush=True,
        )

    def _start(self, write_back_s: float = 0) -> float:
        options = {
            "write_back_s": write_back_s,
            "metadata_ttl_s": self._rng.choice((1, 5, 60)),
            "request_timeout_s": 10,
            "stop_timeout_s": 30,
        }
        self._daemon.start(**options)
        took_s = self._daemon.wait_ready()
        self.figures.restarts_s.append(took_s)
        return took_s

    def _kill_while_starting(self) -> None:
        """Once at some moment, or when the log's new segment is there."""
        usual_s = self.figures.restarts_s[-1]
        point: Point = AtRandom(self._rng.uniform(0.1, 1.2) * usual_s, "while starting")
        if self._rng.random() < 0.5:
            log = self._daemon.source_folder() / "journal/log"
            point = AtFile("during recovery", log, IN_CREATE | IN_MOVED_TO, bool)
        point.arm()
        self._daemon.start(write_back_s=0)
        self._kill(point.name if point.wait(time.monotonic() + 10) else "while starting")

    def _load_until_killed(
        self, number: int, weather: Weather, *, is_sent: bool
    ) -> tuple[str, bool]:
        """At which point it was to be killed, and whether that came."""
        point = self._choose_point(is_sent)
        most_s = 2.0 if self._plan.is_quick else MOST_LOAD_S
        weather.begin()
        point.arm()
        for worker in self._workers:
            worker.ask("load", seconds=most_s, number=number)
        has_come = point.wait(time.monotonic() + most_s)
        name = self._end_somehow(point.name) if isinstance(point, AtRandom) else point.name
        self._kill(name if has_come else "at random", reached=has_come, wanted=point.name)
        weather.end()
        for worker in self._workers:
            self._count_load(worker, worker.answer(), is_calm=weather.is_calm)
        return (name if has_come else point.name), has_come

    def _choose_point(self, is_sent: bool) -> Point:
        choices = points(self._server, self._daemon.source_folder(), self._rng)
        if self._plan.is_quick:
            slow = ("checkpoint", "log is")
            choices = [(w, p) for w, p in choices if not p.name.startswith(slow)]
        choices = [(w, p) for w, p in choices if re.search(self._plan.points, p.name)]
        if not is_sent:
            unsent = [(w, p) for w, p in choices if re.search(UNSENT, p.name)]
            choices = unsent or choices
        [(_, point)] = self._rng.choices(choices, [weight for weight, _ in choices])
        return point

    def _choose_weather(self) -> Weather:
        while True:
            weather = choose_weather(self._server, self._rng)
            if re.search(self._plan.weather, weather.name):
                return weather

    def _end_somehow(self, name: str) -> str:
        """Sometimes it is killed while it ends, or while somebody waits for the queue."""
        chance = self._rng.random()
        if chance < 0.1:
            self._daemon.terminate()
            name = "while it stops"
        elif chance < 0.2:
            self._daemon.command("flush", str(self._daemon.mountpoint))
            name = "while it is flushed"
        if chance < 0.2:
            time.sleep(self._rng.uniform(0.05, 1.0))
        return name

    def _kill(self, name: str, *, reached: bool = True, wanted: str = "") -> None:
        self._daemon.kill()
        self.figures.kills[name] += 1
        if not reached:
            self.figures.missed[wanted] += 1
        self._server.clear_faults()
        self._server.release()
        self._keep_evidence()

    def _keep_evidence(self) -> None:
        """The journal as the kill left it, without the bytes of files."""
        kept = self._folder / "journal-after-kill"
        shutil.rmtree(kept, ignore_errors=True)
        for journal in self._daemon.cache.glob("*/journal"):
            shutil.copytree(journal, kept, ignore=shutil.ignore_patterns("*.data", "spare"))

    def _count_load(self, worker: WorkerProcess, found: dict[str, Any], *, is_calm: bool) -> None:
        self.figures.acknowledged.update(found["acknowledged"])
        self.figures.errors.update(found["errors"])
        self._lose(worker.name, found["problems"])
        self._lose(worker.name, [f"failed, and yet it happened: {c}" for c in found["happened"]])
        for error in found["errors"]:
            expected = ("EIO", "ETIMEDOUT", "EBUSY", "EXDEV", "ESTALE")
            if is_calm or not error.endswith(expected):
                self._lose(worker.name, [f"a call failed: {error}"])

    # -- looking

    def _look(self, *, is_down: bool = False, came_back: bool = False) -> None:
        """`came_back`: the remote just did, and nobody knows it yet."""
        for worker in self._workers:
            worker.ask("look", is_down=is_down, patience_s=PATIENCE_S)
        for worker in self._workers:
            found = worker.answer(2 * PATIENCE_S + 60)
            self.figures.files += found["files"]
            self.figures.bytes += found["bytes"]
            self._lose(worker.name, found["problems"])
            for late in found["late"] if not came_back else ():
                print(f"     could not be read at first, for {late}", flush=True)
                self.figures.late += 1
        if b"Traceback" in self._daemon.log.read_bytes():
            self._lose("daemon", [self._daemon.tail()])

    def _lose(self, who: str, problems: list[str]) -> None:
        for problem in problems:
            print(f"LOSS {who}: {problem}", flush=True)
            self.figures.losses.append(f"{who}: {problem}")
        if problems and not self._plan.keeps_going:
            raise Broken("there is a loss")

    def _drain(self) -> None:
        """Everything goes to the remote, which then has what the mount shows."""
        command = self._daemon.command(
            "flush", str(self._daemon.mountpoint), "--timeout", str(FLUSH_WITHIN_S)
        )
        said, _ = command.communicate(timeout=FLUSH_WITHIN_S + 30)
        if command.returncode != 0:
            self._lose("flush", [f"exit {command.returncode}: {said}\n{self._daemon.tail()}"])
            return
        wanted = digests_seen_by(self._workers)
        self.figures.drains += 1
        self.figures.objects += len(wanted)
        self._lose("remote", differences(self._server, BUCKET, wanted))

    def _last_look(self) -> None:
        """Drained and stopped in good order; then a mount that knows nothing shows the same."""
        self._start()
        self._look()
        self._drain()
        before = digests_seen_by(self._workers)
        code = self._daemon.stop()
        if code != 0:
            self._lose("daemon", [f"exit {code} at its end:\n{self._daemon.tail()}"])
        self._daemon.start(cache_dir=self._folder / "other-cache")
        self._daemon.wait_ready()
        if digests_seen_by(self._workers) != before:
            self._lose("remote", ["a mount with an empty cache shows another tree"])
        self._daemon.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/crash-test", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--time", type=float, default=3600.0, help="seconds at most")
    parser.add_argument("--drain-every", type=int, default=8, help="rounds")
    parser.add_argument("--quick", action="store_true", help="no moments to be waited for")
    parser.add_argument("--keep-going", action="store_true", help="also after a loss")
    parser.add_argument("--folder", type=Path, help="to work in; default: a new one below /tmp")
    parser.add_argument("--workers", default=",".join(NAMES), help="default: %(default)s")
    parser.add_argument("--points", default="", help="a regular expression: kill only there")
    parser.add_argument("--weather", default="", help="a regular expression: only these")
    found = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing stays mounted
    seed = found.seed if found.seed is not None else random.SystemRandom().randrange(1 << 31)
    plan = Plan(
        *(found.kills, seed, found.time, found.drain_every, found.quick, found.keep_going),
        *(tuple(found.workers.split(",")), found.points, found.weather),
    )
    folder = found.folder or Path(tempfile.mkdtemp(prefix="mountd-crash-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, in {folder}", flush=True)
    return run(plan, folder)


def run(plan: Plan, folder: Path) -> int:
    """0 where nothing was lost; then the folder goes, too."""
    with S3Server() as server:
        loop = KillLoop(plan, folder, server)
        try:
            loop.run()
        except Broken as error:
            loop.figures.losses = loop.figures.losses or [str(error)]
            print(f"BROKEN {error}", flush=True)
        figures = loop.figures
    print(figures.table())
    print(figures.summary())
    if figures.losses:
        print(f"what is left of it is in {folder}; the seed was {plan.seed}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
