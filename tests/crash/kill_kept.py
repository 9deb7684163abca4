"""Kills daemons in the background, again and again, while the load goes on with its open files.

    python -m tests.crash.kill_kept --kills 60 --seed 7        (or: scripts/crash-test --kept)

Each round mounts, begins the load of `kill_loop`, with files that stay open, and kills up to five
daemons under it (a sixth within a minute is given up): at random moments, at those of
`kill_loop_points`, and while a successor starts. No call may fail, read other bytes or wait for
long. Then all is compared: on that mount, on the remote after a flush, and on the next mount. Some
rounds end with a kill of the keeper and its daemon; then it is as after any crash.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.kill_kept_remotes import KINDS, Remote, running
from tests.crash.kill_kept_shared import NAME, Other, missing_lines
from tests.crash.kill_loop_disturb import choose_weather
from tests.crash.kill_loop_figures import Figures
from tests.crash.kill_loop_points import points
from tests.crash.kill_loop_processes import BUCKET, Broken, WorkerProcess
from tests.crash.kill_loop_remote import differences_in, digests_seen_by
from tests.crash.kill_loop_worker import KEPT_NAMES, first_files
from tests.mount.mounting import is_mounted
from tests.mount.surviving import Background, children, is_alive

MOST_KILLS = 5  # of one keeper's daemons within a minute
NEXT_WITHIN_S = 60.0
CALL_WITHIN_S = 60.0
POINT_WITHIN_S = 3.0
PATIENCE_S = 20.0
FLUSH_WITHIN_S = 90
# The kernel kept a thread of a dead daemon waiting, so the keeper answered whoever it waited for,
# with an error that says nothing of what has happened (docs/semantics.md).
FREED = "calls on the mount get an error, so that another one can go on"
FREED_ERRORS = ("EINTR", "EIO")
WEATHER_ERRORS = ("EIO", "ETIMEDOUT", "EBUSY", "EXDEV", "ESTALE")


@dataclass(frozen=True, slots=True)
class Plan:
    kills: int
    seed: int
    time_s: float
    keeps_going: bool
    is_quick: bool  # three kills a round, at random moments, and nothing else happens
    workers: tuple[str, ...] = KEPT_NAMES


@dataclass(slots=True)
class KeptFigures(Figures):
    """`longest_s`: of all calls. `keepers`: how many were killed, with their daemons."""

    longest_s: float = 0.0
    keepers: int = 0
    not_there: int = 0  # kills that came before the successor served
    upgrades: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    freed: int = 0  # rounds in which the keeper answered calls
    downs: int = 0  # kills at which the remote went away, so that no successor reaches it

    def summary(self) -> str:
        calls = sum(self.acknowledged.values())
        return (
            f"{sum(self.kills.values())} kills ({self.not_there} of a daemon that did not serve "
            f"yet, {self.downs} while the remote went away, {self.keepers} with the keeper), "
            f"{self.upgrades} upgrades, {self.freed} rounds with calls that the keeper answered, "
            f"{sum(self.commands.values())} commands "
            f"({', '.join(sorted(self.commands))}), {calls} acknowledged calls, the longest "
            f"{self.longest_s:.1f} s; {self.files} files ({self.bytes / 1e9:.1f} GB) compared, "
            f"{self.drains} drains with {self.objects} objects; {len(self.losses)} losses"
        )


class KeptMount(Background):
    """`mountd mount SOURCE FOLDER/mnt`, in the background. Raises Broken."""

    frees = 0  # FREED that were seen
    starts = 0  # the lines that say that one serves, once the present one does
    source = ""

    def begin(self, **options: object) -> None:
        options = {"cache_dir": self.cache, "cache_size": "1GiB", **options}
        settings = ",".join(f"{name}={value}" for name, value in options.items())
        done = self.cli("mount", self.source, str(self.path), "-o", settings)
        if done.returncode:
            raise Broken(f"mount: exit {done.returncode}: {done.stderr}\n{self.tail()}")
        self.keeper = 0
        self.look()
        self.starts = self.log().count(" serves ")

    def kill_one(self) -> bool:
        """Whether it served; another one is there then, which need not serve yet."""
        dead, serves = self.look(), self.log().count(" serves ") == self.starts
        os.kill(dead, signal.SIGKILL)
        self._wait(lambda: children(self.keeper) not in ([], [dead]), "no successor came")
        self.starts = self.log().count(" serves ") + 1
        return serves

    def has_freed(self) -> bool:
        """Whether the keeper answered calls since this was asked last."""
        before, self.frees = self.frees, self.log().count(FREED)
        return self.frees > before

    def upgrade(self) -> None:
        """By the command, which a kill may meet."""
        done = self.cli("upgrade", str(self.path))
        if done.returncode:
            raise Broken(f"upgrade: {done.returncode} {done.stdout}{done.stderr}\n{self.tail()}")

    def wait_ready(self) -> None:
        self._wait(lambda: self.log().count(" serves ") >= self.starts, "no successor serves")

    def kill_all(self) -> None:
        """The keeper first, so that nobody goes on."""
        pids = [self.keeper, self.look()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._wait(lambda: not any(map(is_alive, pids)), f"{pids} do not end")

    def umount(self) -> None:
        try:
            done = self.cli("umount", str(self.path))
        except subprocess.TimeoutExpired as error:
            queue = self.cli("queue", str(self.path)).stdout
            raise Broken(f"umount: {error}\n{self.status()}\n{queue}\n{self.tail()}") from error
        if done.returncode:
            raise Broken(f"umount: {done.returncode} {done.stdout}{done.stderr}\n{self.tail()}")
        self._wait(lambda: not is_alive(self.keeper), "the keeper does not end")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + NEXT_WITHIN_S
        while not condition():
            if time.monotonic() > until_s:
                raise Broken(f"{what}:\n{self.tail()}")
            time.sleep(0.01)

    def tail(self) -> str:
        return self.log()[-4000:]

    def clean_up(self) -> None:
        """Nothing of it runs or is mounted any more."""
        for pid in (self.keeper, *children(self.keeper)) if self.keeper else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if is_mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False, timeout=20)


@dataclass
class KeptKills:
    """One run. `run` is the door; it leaves nothing running or mounted."""

    plan: Plan
    folder: Path
    remote: Remote
    figures: KeptFigures = field(default_factory=KeptFigures)

    def run(self) -> None:
        """Raises Broken. Losses are in the figures."""
        folder = self.folder
        (folder / "mnt").mkdir()
        (folder / "run").mkdir(mode=0o700)
        environment = os.environ | self.remote.environment
        environment |= {"MOUNTD_RUNTIME_DIR": str(folder / "run")}
        self._rng = random.Random(self.plan.seed)
        self._mount = KeptMount(folder / "mnt", folder / "cache", environment)
        self._mount.source = self.remote.source
        self._server = self.remote.scripted
        self._was_down = False
        self._workers: list[WorkerProcess] = []
        self._lines: list[str] = []  # that were acknowledged in files which others change, too
        began_s = time.monotonic()
        try:
            self._begin_workers()
            number = 0
            while sum(self.figures.kills.values()) < self.plan.kills:
                if time.monotonic() - began_s > self.plan.time_s:
                    break
                number += 1
                self._round(number)
            self._last_look()
        finally:
            for worker in self._workers:
                worker.clean_up()
            self._mount.clean_up()

    def _begin_workers(self) -> None:
        for name in self.plan.workers:
            for path, data in first_files(name, self.plan.seed).items():
                self.remote.put(f"{name}/{path}", data)
            mnt = self._mount.path
            self._workers.append(WorkerProcess(name, mnt, self.folder, self.plan.seed))

    def _round(self, number: int) -> None:
        rng, quick = self._rng, self.plan.is_quick
        self._start(write_back_s=0.2 if quick else rng.choice((0, 0.2, 1, 60)))
        self._look()
        server = self._server
        weather = choose_weather(server, rng) if server is not None and not quick else None
        most = 3 if quick else rng.randrange(2, MOST_KILLS + 1)
        seconds = 6.0 if quick else 4.0 * most
        ends = not quick and rng.random() < 0.25
        self._was_down = False
        if weather is not None:
            weather.begin()
        for worker in self._workers:
            worker.ask("load", seconds=seconds, number=number, kept=True)
        with self._others() as others:
            names = [self._kill_one() for _ in range(most)]
            if ends:
                self._kill_keeper(names)
        self._lines += others.lines if others is not None else []
        self._release()
        is_calm = (weather is None or weather.is_calm) and not self._was_down
        answers = [worker.answer(seconds + CALL_WITHIN_S) for worker in self._workers]
        expected: tuple[str, ...] = () if is_calm else WEATHER_ERRORS
        if freed := self._mount.has_freed():
            expected += FREED_ERRORS
            self.figures.freed += 1
        for worker, found in zip(self._workers, answers, strict=True):
            self._count_load(worker, found, expected, ends=ends)
            happened = [] if freed else found["happened"]
            self._lose(worker.name, [f"failed, and yet it happened: {what}" for what in happened])
        if weather is not None:
            weather.end()
        sky = weather.name if weather is not None else "calm"
        print(f"{number:4} {sky}; killed: {', '.join(names)}", flush=True)
        self._end_round(ends)

    def _others(self) -> AbstractContextManager[Other | None]:
        if NAME not in self.plan.workers:
            return nullcontext()
        return Other(self.remote.environment, BUCKET, self._rng.randrange(1 << 30))

    def _end_round(self, ends: bool) -> None:
        if ends:
            return
        self._look()
        if self.plan.is_quick or self._rng.random() < 0.5:
            self._drain()
        if self._rng.random() < 0.8:
            self._mount.umount()
        else:
            self._mount.kill_all()
            self.figures.kills["keeper and daemon, at rest"] += 1
            self.figures.keepers += 1

    def _start(self, **options: object) -> None:
        more = {"metadata_ttl_s": self._rng.choice((1, 5, 60)), "request_timeout_s": 10}
        self._mount.begin(**more, stop_timeout_s=60, **options)

    # -- kills

    def _kill_one(self) -> str:
        rng, name = self._rng, "at random"
        if not self.plan.is_quick and rng.random() < 0.2:
            self._command()
        if rng.random() < 0.7:
            self._mount.wait_ready()
        server = self._server
        if not self.plan.is_quick and rng.random() < 0.25:
            return self._upgrade()
        if server is not None and not self.plan.is_quick and rng.random() < 0.5:
            [source] = self._mount.cache.glob("*/journal")
            choices = points(server, source.parent, rng, self.remote.more_points)
            choices = [(w, p) for w, p in choices if not p.name.startswith(("checkp", "log is"))]
            [(_, point)] = rng.choices(choices, [weight for weight, _ in choices])
            point.arm()
            if point.wait(time.monotonic() + POINT_WITHIN_S):
                name = point.name
        else:
            time.sleep(rng.choice((rng.uniform(0, 0.8), rng.uniform(0, 3))))
        if server is not None and not self.plan.is_quick and rng.random() < 0.2:
            name += ", the remote away"
            self._was_down = True
            self.figures.downs += 1
            server.refuse_connections(for_s=rng.uniform(0.5, 4))
        if not self._mount.kill_one():
            name += " (did not serve yet)"
            self.figures.not_there += 1
        self.figures.kills[name] += 1
        self._release()
        return name

    def _release(self) -> None:
        if self._server is not None:
            self._server.clear_faults()
            self._server.release()

    def _command(self) -> None:
        """What a user may ask for meanwhile of a directory that others work in; or of none."""
        rng = self._rng
        what = rng.choice((["pin", "--no-wait"], ["pin"], ["unpin"], ["refresh"], ["warm"]))
        top = self._mount.path / rng.choice(self.plan.workers)
        done = self._mount.cli(*what, str(top))
        self.figures.commands[f"{what[0]}: {done.returncode}"] += 1
        if "Traceback" in done.stderr:
            self._lose(what[0], [done.stderr])

    def _upgrade(self) -> str:
        """Alone, or while a daemon dies: then it is the successor's, or begins anew with it."""
        rng, mount = self._rng, self._mount
        is_killed = rng.random() < 0.5
        with ThreadPoolExecutor(1) as pool:
            upgrading = pool.submit(mount.upgrade)
            if is_killed:
                time.sleep(rng.uniform(0, 1.2))
                mount.kill_one()
                self.figures.kills["during an upgrade"] += 1
            upgrading.result()
        self.figures.upgrades += 1
        # How often somebody came to serve in between is not known.
        mount.starts = mount.log().count(" serves ")
        return "during an upgrade" if is_killed else "(an upgrade)"

    def _kill_keeper(self, names: list[str]) -> None:
        time.sleep(self._rng.uniform(0, 2))
        self._mount.kill_all()
        names.append("keeper and daemon")
        self.figures.kills[names[-1]] += 1
        self.figures.keepers += 1

    def _count_load(
        self, worker: WorkerProcess, found: dict[str, Any], expected: tuple[str, ...], *, ends: bool
    ) -> None:
        self.figures.acknowledged.update(found["acknowledged"])
        self.figures.errors.update(found["errors"])
        self._lines += found["lines"]
        self.figures.longest_s = max(self.figures.longest_s, found["longest_s"])
        problems = list(found["problems"])
        problems += [
            f"a call failed: {error}" for error in found["errors"] if not error.endswith(expected)
        ]
        if found["is_gone"] and not ends:
            problems.append("the mount was dead")
        if found["longest_s"] > CALL_WITHIN_S:
            problems.append(f"a call took {found['longest_s']:.0f} s")
        self._lose(worker.name, problems)

    # -- looking

    def _look(self) -> None:
        for worker in self._workers:
            options = {"patience_s": PATIENCE_S, "moves_whole": self.remote.moves_whole}
            worker.ask("look", is_down=False, **options)
        for worker in self._workers:
            found = worker.answer(2 * PATIENCE_S + CALL_WITHIN_S)
            self.figures.files += found["files"]
            self.figures.bytes += found["bytes"]
            self._lose(worker.name, found["problems"])
        if "Traceback" in self._mount.log():
            log = self._mount.log()
            self._lose("daemon", [log[log.index("Traceback") - 2000 :][:6000]])

    def _lose(self, who: str, problems: list[str]) -> None:
        for problem in problems:
            print(f"LOSS {who}: {problem}", flush=True)
            self.figures.losses.append(f"{who}: {problem}")
        if problems and not self.plan.keeps_going:
            raise Broken("there is a loss")

    def _drain(self) -> None:
        """Everything goes to the remote, which then has what the mount shows."""
        done = self._mount.cli("flush", str(self._mount.path), "--timeout", str(FLUSH_WITHIN_S))
        if done.returncode:
            self._lose("flush", [f"exit {done.returncode}: {done.stdout}{done.stderr}"])
            return
        wanted = digests_seen_by(self._workers)
        self.figures.drains += 1
        self.figures.objects += len(wanted)
        keys, shared = self.remote.keys(), f"{NAME}/"
        ours = [key for key in keys if not key.startswith(shared)]
        wanted = {key: digest for key, digest in wanted.items() if not f"{key}/".startswith(shared)}
        self._lose("remote", differences_in(ours, self.remote.read, wanted))
        texts = {key: self.remote.read(key) for key in keys if key.startswith(shared)}
        self._lose(NAME, missing_lines(self._lines, texts))

    def _last_look(self) -> None:
        """Drained and unmounted; then a mount that knows nothing shows the same."""
        self._start()
        self._look()
        self._drain()
        before = digests_seen_by(self._workers)
        self._mount.umount()
        self._start(cache_dir=self.folder / "other-cache")
        if digests_seen_by(self._workers) != before:
            self._lose("remote", ["a mount with an empty cache shows another tree"])
        self._mount.umount()


def workers_for(remote: str) -> tuple[str, ...]:
    if remote == "s3":
        return (*KEPT_NAMES, NAME)
    # moto lists prefixes that have nothing but delete markers as directories, for ever.
    return tuple(name for name in KEPT_NAMES if remote != "versioned" or name != "names")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/crash-test --kept", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--time", type=float, default=3600.0, help="seconds at most")
    parser.add_argument("--quick", action="store_true", help="only at random moments")
    parser.add_argument("--keep-going", action="store_true", help="also after a loss")
    parser.add_argument("--folder", type=Path, help="to work in; default: a new one below /tmp")
    parser.add_argument("--workers", help=f"default: {','.join(KEPT_NAMES)}, on s3 {NAME} too")
    parser.add_argument("--remote", choices=KINDS, default=KINDS[0], help="default: %(default)s")
    found = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing stays mounted
    seed = found.seed if found.seed is not None else random.SystemRandom().randrange(1 << 31)
    workers = tuple(found.workers.split(",")) if found.workers else workers_for(found.remote)
    plan = Plan(found.kills, seed, found.time, found.keep_going, found.quick, workers)
    folder = (found.folder or Path(tempfile.mkdtemp(prefix="mountd-kept-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, in {folder}", flush=True)
    with running(found.remote, folder) as remote:
        kills = KeptKills(plan, folder, remote)
        try:
            kills.run()
        except Broken as error:
            kills.figures.losses = kills.figures.losses or [str(error)]
            print(f"BROKEN {error}", flush=True)
    print(kills.figures.table())
    print(kills.figures.summary())
    if kills.figures.losses:
        print(f"what is left of it is in {folder}; the seed was {seed}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
