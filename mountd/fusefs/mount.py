"""Mounting and unmounting: the session that pyfuse3 keeps in module globals, one per process."""

import logging
import os
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path

import pyfuse3
import trio

from mountd.errors import CannotGoOn, MountPointError
from mountd.fusefs import request_loop
from mountd.fusefs.kernel import abort, connection_of
from mountd.fusefs.operations import Operations
from mountd.fusefs.request_loop import Meanwhile
from mountd.fusefs.takeover import (
    Beginning,
    ConnectionLost,
    Greeting,
    GreetingDiffers,
    Successor,
)

log = logging.getLogger(__name__)

MAX_TASKS = 200  # requests in hand at once; those that wait for the remote each hold one
UNMOUNT_TIMEOUT_S = 10.0
# What requests in hand have to end once `terminate` was called; a hanging one may wait for a
# minute, and whoever asked for it gets ENOTCONN either way.
TERMINATE_WITHIN_S = 5.0
TOLD_WITHIN_S = 1.0
TELLING_AT_ONCE = 16


class FuseMount:
    """One mount of this process. `serve` runs until somebody unmounts it."""

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint = mountpoint
        self._mounted = False
        self._detached = False
        self._serving = trio.CancelScope()
        self._connection = ""
        self._beginning: Beginning | Successor | None = None
        self._meanwhile: Meanwhile | None = None
        self.is_left = False  # for a successor
        self._telling = 0  # threads that the kernel may keep waiting; all below this lock
        self._told = threading.Condition()
        # Of its own: threads that the kernel keeps must not be those that an fsync waits for.
        self._limiter = trio.CapacityLimiter(TELLING_AT_ONCE)

    @property
    def is_mounted(self) -> bool:
        """From `mount` to `close`."""
        return self._mounted

    def mount(
        self,
        operations: Operations,
        options: Iterable[str],
        on_greeted: Callable[[int, Greeting], None] | None = None,
    ) -> None:
        """Mounts. Raises MountPointError with the kernel's reason. `on_greeted`: see Beginning."""
        if on_greeted is not None:
            self._beginning = Beginning(on_greeted)
        self._start(operations, os.fspath(self.mountpoint), options)

    def go_on(self, operations: Operations, options: Iterable[str], successor: Successor) -> None:
        """Serves a mount that another process made. Raises MountPointError."""
        self._beginning = successor
        self._start(operations, f"/dev/fd/{successor.fd}", options)

    @property
    def is_former(self) -> bool:
        """Whether another process made the mount."""
        return isinstance(self._beginning, Successor)

    def leave(self) -> None:
        """`close` will leave the mount to a successor."""
        self.is_left = True

    def leave_if_told(self) -> bool:
        """As `leave`, and no thread tells the kernel anything from then on. False, and nothing has
        changed, where one is at it: it may wait for whoever has a directory locked until he is
        answered, and nobody would do that any more."""
        with self._told:
            self.is_left = self.is_left or not self._telling
            return self.is_left

    def _start(self, operations: Operations, where: str, options: Iterable[str]) -> None:
        logging.getLogger("pyfuse3").setLevel(logging.INFO)  # its debug lines are per request
        try:
            pyfuse3.init(operations, where, set(options))
        except (RuntimeError, OSError) as exc:
            raise MountPointError(
                f"cannot mount at {self.mountpoint}: {exc}; `mountd doctor` says what is missing"
            ) from exc
        self._mounted = True
        self._meanwhile = operations.meanwhile
        self._connection = connection_of(self.mountpoint)

    async def serve(self) -> None:
        """Answers requests until the mount is gone. Raises CannotGoOn where this code can't answer
        for a former process; then the mount is still there."""
        if not request_loop.install(self._beginning, self._meanwhile) and self.is_former:
            self.leave()
            raise CannotGoOn("this pyfuse3 can't go on with a mount of another process")
        with self._serving:
            try:
                await pyfuse3.main(min_tasks=4, max_tasks=MAX_TASKS)
            except* (GreetingDiffers, ConnectionLost) as exc:
                # What was unmounted meanwhile is not to be mounted again.
                if connection_of(self.mountpoint) == self._connection:
                    self.leave()
                    raise CannotGoOn(f"{self.mountpoint}: {exc.exceptions[0]}") from exc

    def terminate(self) -> None:
        """Ends `serve` although the mount may still be held somewhere: at once where no request
        is in hand, else within TERMINATE_WITHIN_S. Harmless when it has ended."""
        if self._mounted:
            left_s = 0.0 if self.is_left else TERMINATE_WITHIN_S
            self._serving.deadline = trio.current_time() + left_s
            pyfuse3.terminate()

    async def invalidate(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Makes the kernel forget (parent inode, name) pairs, each with all that is below it.
        In a thread: the kernel may wait for a request of ours meanwhile."""
        await trio.to_thread.run_sync(
            self._invalidate, list(entries), abandon_on_cancel=True, limiter=self._limiter
        )

    def _invalidate(self, entries: Iterable[tuple[int, bytes]]) -> None:
        for parent, name in entries:
            with self._told:
                if not self._mounted or self.is_left:
                    return  # there is no session any more, and nobody who could remember
                self._telling += 1
            try:
                pyfuse3.invalidate_entry(parent, name)
            except FileNotFoundError:
                pass  # the kernel did not know it
            finally:
                with self._told:
                    self._telling -= 1
                    self._told.notify_all()

    async def unmount(self, *, lazy: bool = False) -> str | None:
        """Unmounts while `serve` goes on answering; what the tool said where it could not."""
        return await trio.to_thread.run_sync(self._unmount, lazy, abandon_on_cancel=True)

    def _unmount(self, lazy: bool) -> str | None:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), os.fspath(self.mountpoint)]
        if os.geteuid() == 0:
            command = ["umount", "-i", *(["-l"] if lazy else []), os.fspath(self.mountpoint)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=UNMOUNT_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return str(exc)
        if done.returncode != 0:
            return done.stderr.strip() or "unmounting failed"
        self._detached = True
        return None

    def close(self) -> None:
        """Ends the session, and the mount where it is still there. Harmless when not mounted.
        Blocks for a moment where a thread is just telling the kernel something."""
        with self._told:
            if not self._mounted:
                return
            self._mounted = False
            if not self._all_told():
                # It waits for a directory that a request has locked which nobody answers any more;
                # this process could not even end. And no session may go below a thread's feet.
                abort(self._connection)
                if not self._detached:  # libfuse doesn't do it once the connection is gone
                    self._unmount(lazy=True)
                if not self._all_told():
                    log.warning("the kernel keeps a thread waiting; the session stays as it is")
                    return
        is_ours = self.is_former and not self._detached and not self.is_left
        # libfuse unmounts only what it has mounted itself.
        if is_ours and connection_of(self.mountpoint) == self._connection:
            self._unmount(lazy=True)
        # libfuse would try to unmount what is detached already, and complain.
        pyfuse3.close(unmount=not (self._detached or self.is_left or self.is_former))

    def _all_told(self) -> bool:
        return self._told.wait_for(lambda: not self._telling, TOLD_WITHIN_S)


def mount_options(source_text: str, *, read_only: bool, allow_other: bool) -> set[str]:
    """libfuse's options. Its parser takes ASCII, and splits at commas unless escaped."""
    name = urllib.parse.quote(source_text, safe="/:@=+~!*'();?&#[]$ ")
    options = set(pyfuse3.default_options)
    options |= {f"fsname={name.replace(',', '%2C')}", "subtype=mountd", "default_permissions"}
    options |= {"ro"} if read_only else set()
    options |= {"allow_other"} if allow_other else set()
    return options
