"""One daemon's part in a mount that outlives it: what it was left, and what it leaves.

docs/surviving-a-crash.md says what was tried, and what a successor can and can't know.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import trio

from mountd.cache_folder import CacheFolder
from mountd.config import MountPlan
from mountd.errors import CannotGoOn, StartError
from mountd.fusefs.mount import FuseMount
from mountd.fusefs.operations import Operations
from mountd.fusefs.successor import SuccessorOperations
from mountd.fusefs.takeover import Greeting, Successor
from mountd.kept import told
from mountd.kept.descriptors import KEPT, ONLY_LOOK, REPLACES, Left, connection_number
from mountd.kept.freeing import claimed
from mountd.kept.record import Record, Unsound, supersede
from mountd.kept.store import kept_by
from mountd.mount_table import Mount, mount_at, read_mounts
from mountd.vfs.filesystem import FileSystem
from mountd.vfs.half_renamed import completed
from mountd.vfs.restoring import Noted, restore

log = logging.getLogger(__name__)

# What the kernel was told for good at the first start, or remembers of an answer.
TERMS: Final = ("durability", "xattrs", "read_only", "allow_other")

SETTLED_WITHIN_S: Final = 0.2
# The kernel, of names; the command waits 30 s longer than for the next line's.
TOLD_WITHIN_S, TOLD_LOOK_S = 20.0, 0.02
LOOKS_WITHIN_S: Final = 60.0  # it can be as slow where the machine is busy
ECHO_WITHIN_S: Final = 3.0  # the keeper has passed on by then what was sent to both


class GoingOn:
    """Made before the rooms, with the plan as the config has it: `plan` is the one to be served.
    Raises StartError where somebody has unmounted what a former process had."""

    def __init__(
        self,
        plan: MountPlan,
        left: Left | None = None,
        *,
        mounts: Callable[[], list[Mount]] = read_mounts,
    ) -> None:
        self._keeper = kept_by(left)
        self._mounts = mounts
        self.plan = plan
        self._record: Record | None = None
        self._connection = self._former_fd = -1
        self.is_upgrading = False
        self._told_s = -math.inf  # by a signal to end
        if left is not None:
            self._take_over(left)
        self.is_successor = self._record is not None  # a former process had this mount
        self._terms = terms_of(self.plan)

    def _take_over(self, left: Left) -> None:
        """What can't be gone on with is let go, so that its mount is a dead one: this process then
        mounts in its place, as after a crash that nobody has kept anything of."""
        try:
            self._record = self._former(left)
            self._connection = left.connection
            self._former_fd = left.record
        except StartError as error:
            if isinstance(error, CannotGoOn):
                self._say_lost(error)
            self._keeper.let_go()
            left.close()
            if not isinstance(error, CannotGoOn):
                raise

    def _say_lost(self, error: CannotGoOn) -> None:
        log.warning("%s: open files there are lost, and it is mounted again", error)

    def _former(self, left: Left) -> Record:
        try:
            record = Record.read(left.record)
        except (Unsound, OSError) as error:
            raise CannotGoOn(f"what the former daemon left can't be read ({error})") from error
        try:
            # As the former process had it: looking at the path would wait for ourselves.
            self.plan = replace(self.plan, mountpoint=_mountpoint_in(record.terms))
            number = connection_number(left.connection)
            mount = mount_at(os.fspath(self.plan.mountpoint), self._mounts())
            if record.terms != terms_of(self.plan):
                raise CannotGoOn(
                    f"the mount at {self.plan.mountpoint} had other settings "
                    f"({', '.join(TERMS)} or SOURCE)"
                )
            if mount is None or (number and mount.device.partition(":")[2] != number):
                raise StartError(
                    f"{self.plan.mountpoint} was unmounted while no daemon was there; what "
                    "waits is sent by the next mount"
                )
        except BaseException:
            record.close()
            raise
        return record

    def claimed(self, claim: Callable[[], CacheFolder]) -> CacheFolder:
        """The cache, also where the former process is dead and still holds it. Does not return
        where the mount can't be gone on with. Raises as `claim` does."""
        if not self.is_successor:
            return claim()
        try:
            return claimed(claim, self._connection)
        except CannotGoOn as error:
            self.mount_instead(error)

    async def upgrade(
        self, request: dict[str, Any], fuse: FuseMount, state: Callable[[], str]
    ) -> dict[str, Any]:
        """Makes room for the same process with new code; the kernel's requests wait for that.
        Raises StartError."""
        keeper = os.getppid() if self._keeper.fd is not None else 0
        now = {"pid": os.getpid(), "keeper": keeper, "generation": self.generation}
        if request.get("only_look"):
            return now | {"state": state()}
        by_s = trio.current_time() + TOLD_WITHIN_S
        while True:
            if self._record is None or state() != "ready":
                raise StartError(
                    "this mount can't be handed over now: unmount it and mount it again"
                )
            if self.is_upgrading:
                break
            if fuse.leave_if_told():
                log.info("upgrading: the mount stays, its requests wait for the new code")
                self.is_upgrading = True
                fuse.terminate()
                break
            if trio.current_time() > by_s:
                raise StartError("not upgraded: a call there waits for the remote; try again")
            await trio.sleep(TOLD_LOOK_S)
        return now | {"state": state()}

    async def look_at_new_code(self) -> None:
        """Raises StartError where the code or the config of now would end at once: the mount would
        be dead, and what is open there lost."""
        command = [sys.executable, *_arguments(sys.orig_argv[1:])]
        environment = dict(os.environ) | {ONLY_LOOK: "1"}
        try:
            with trio.fail_after(LOOKS_WITHIN_S):
                done = await trio.run_process(
                    command,
                    stdin=b"",
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env=environment,
                )
        except OSError as error:
            raise StartError(f"not upgraded: the new code can't be started ({error})") from error
        except trio.TooSlowError as error:
            raise StartError(
                f"not upgraded: the new code does not start within {LOOKS_WITHIN_S:.0f} s"
            ) from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").split("\n")
            said = next((line for line in reversed(lines) if line), f"exit code {done.returncode}")
            raise StartError(f"not upgraded: {said.removeprefix('mountd: ')}")

    @property
    def generation(self) -> int:
        """How many processes had this mount before."""
        return self._record.generation if self._record is not None else 0

    @property
    def held(self) -> Sequence[int]:
        """Contents that belong to open files without a name."""
        return tuple(self._record.contents().values()) if self._record is not None else ()

    @property
    def kind(self) -> type[Operations]:
        return SuccessorOperations if self.is_successor else Operations

    def restore(self, fs: FileSystem) -> None:
        """What the former process has given out is there again, before anything is sent."""
        record = self._record
        if record is not None:
            noted = record.directories(), record.files(), record.contents()
            numbers = record.edited_numbers(), record.gone_numbers()
            restore(fs, completed(fs.tree, Noted(*noted, *numbers), record))
            # From here on: what the queue stages for who reads a removed file is noted, too.
            self._use(record, fs)
            self._keep(record.fd)
            supersede(self._former_fd)
            os.close(self._former_fd)

    def mount(
        self, fuse: FuseMount, fs: FileSystem, operations: Operations, options: set[str]
    ) -> None:
        """Mounts, or goes on with what is mounted. Raises MountPointError."""
        record = self._record
        if record is None:
            fuse.mount(
                operations, options, lambda fd, said: self._greeted(fd, said, fs, operations)
            )
            return
        successor = Successor(self._connection, record.greeting)
        assert isinstance(operations, SuccessorOperations)
        operations.successor = successor
        operations.former_listings = record.listings()
        operations.former_directories = record.directories()
        operations.took_over(record.files())
        self._serve(record, operations)
        fuse.go_on(operations, options, successor)
        log.warning(
            "going on for a daemon that ended: %d open files, %d directories are held",
            *(len(record.files()), len(record.directories())),
        )

    def _greeted(
        self, connection: int, greeting: Greeting, fs: FileSystem, operations: Operations
    ) -> None:
        if not (greeting.can_resend and greeting.is_sound()):
            os.close(connection)
            log.info("this kernel can't send requests again: the mount ends with this process")
            return
        self._connection = connection
        self._record = record = Record(greeting, self._terms)
        self._use(record, fs)
        self._serve(record, operations)
        self._keep(record.fd)

    def _use(self, record: Record, fs: FileSystem) -> None:
        record.moved = self._keep
        fs.files.notes = fs.tree.notes = fs.tree.following.notes = record
        fs.files.next_handle = record.first_handle

    def _keep(self, record_fd: int) -> None:
        if self._connection >= 0:
            self._keeper.keep(self._connection, record_fd)

    def _serve(self, record: Record, operations: Operations) -> None:
        operations.notes = record
        operations.next_directory = record.first_handle

    def serves(self) -> None:
        """The path answers."""
        if self._record is not None:
            self._record.serves()
        self._keeper.serves()

    async def settle(self) -> None:
        """Tells the keeper what it had no room for, until cancelled."""
        while True:
            await trio.sleep(SETTLED_WITHIN_S)
            self._keeper.settle()

    def let_go(self) -> None:
        """The mount is about to go: nobody is to go on with it. Harmless a second time."""
        if not self.is_upgrading:
            self._keeper.let_go()

    def ended(self, *, is_left: bool = False) -> None:
        """The session with the kernel is closed, and the mount is gone or `is_left`. Unless this
        process goes on, the connection is closed here too: a thread that the kernel keeps waiting
        for it would keep this process alive."""
        if self.is_upgrading:
            return
        if not is_left:
            self._keeper.let_go()
        if self._connection >= 0:
            os.close(self._connection)
            self._connection = -1

    def is_echo(self, now_s: float) -> bool:
        """Called with each signal to end: whether it is the former one, passed on by the keeper.
        Who ends a session or the machine signals both; a second word would be to end at once,
        and to lose what the kernel still has of open files."""
        is_second = now_s - self._told_s < ECHO_WITHIN_S
        self._told_s = -math.inf if is_second else now_s
        return is_second and self._keeper.fd is not None

    def begin_anew(self) -> NoReturn:
        """This process again, with the code that is installed now, when all else is closed."""
        assert self._record is not None
        self._keeper.begins()
        fds = self._connection, self._record.fd
        self._execute({KEPT: ",".join(map(str, fds))}, fds)

    def mount_instead(self, error: CannotGoOn) -> NoReturn:
        """As `begin_anew`, and it mounts in the place of the former mount, whose end this is."""
        self._say_lost(error)
        self._keeper.let_go()
        self._execute({REPLACES: "1"}, ())

    def _execute(self, more: dict[str, str], fds: tuple[int, ...]) -> NoReturn:
        more |= self._keeper.environment
        if self._keeper.fd is not None:
            fds = (*fds, self._keeper.fd)
        for fd in fds:
            os.set_inheritable(fd, True)
        more |= told.hand_on()
        arguments = [sys.executable, *_arguments(sys.orig_argv[1:])]
        os.execve(sys.executable, arguments, dict(os.environ) | more)


def terms_of(plan: MountPlan) -> bytes:
    """What must not change while the mount lives."""
    settings = {name: getattr(plan.settings, name) for name in TERMS}
    settings |= {"source": plan.source.text, "mountpoint": os.fspath(plan.mountpoint)}
    return json.dumps(settings, sort_keys=True).encode("utf-8", "surrogatepass")


def _mountpoint_in(terms: bytes) -> Path:
    try:
        return Path(json.loads(terms)["mountpoint"])
    except (ValueError, KeyError, TypeError) as error:
        raise CannotGoOn(
            f"what the former daemon left is of another version ({error!r})"
        ) from error


def _arguments(arguments: Sequence[str]) -> list[str]:
    """Without the pipe to a starter that has gone on long ago."""
    kept, skips = [], False
    for argument in arguments:
        if not skips and argument != "--ready-fd":
            kept.append(argument)
        skips = argument == "--ready-fd"
    return kept
