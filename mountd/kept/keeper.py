"""The parent of a daemon in the background: keeps the connection while that is started again.

Run as a file, `python -I -S keeper.py READY_FD COMMAND...`, and imports nothing but what a few MB
hold. It has no file open on the mount and never looks at it, so nothing there can keep it waiting.
A daemon that ends without the word `end` has crashed, unless it was told to: another one is started
with the connection. How it ends otherwise is how this ends. What this says goes to standard error,
which is the daemon's output.log. docs/surviving-a-crash.md
"""

import errno
import os
import select
import signal
import socket
import struct
import sys
import time

WITHIN_S = 60.0
MOST_CRASHES = 5  # within that
FIRST_DELAY_S, MOST_DELAY_S = 0.25, 4.0  # the first restart doesn't wait
SERVES_WITHIN_S = 90.0  # a start that takes longer hangs: all that wait on the mount wait for it
ENDING = (signal.SIGTERM, signal.SIGINT)
GAVE_UP = 1
CANNOT_START = 126  # as a shell says it

# Of a daemon that is dead and can't be buried, because the kernel keeps a thread of it waiting.
LOOK_EVERY_S, STEP_S = 2.0, 0.25
FREES_AFTER_S, FREES_MORE_AFTER_S, ABORTS_AFTER_S = 1.0, 5.0, 30.0
IN_HEADER = struct.Struct("=IIQ")  # the beginning of fuse_in_header: length, opcode, unique
OUT_HEADER = struct.Struct("=IiQ")
READ_BYTES = (1 << 20) + 4096
MOST_AT_ONCE = 1000  # who asks again and again must not keep us here
RESEND = 7  # FUSE_NOTIFY_RESEND
# LOOKUP, READDIR, READDIRPLUS: whoever waits for one holds a directory's lock, and lost nothing.
LOOKS = frozenset((1, 28, 44))
# SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, SETXATTR, REMOVEXATTR, FSYNCDIR,
# CREATE, RENAME2, TMPFILE hold one, too. None that has bytes of a file.
CHANGES = frozenset((4, 6, 8, 9, 10, 11, 12, 13, 21, 24, 30, 35, 45, 51))
CONNECTIONS = "/sys/fs/fuse/connections"


def say(text: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    try:  # noqa: SIM105 -- contextlib is not among its few modules
        print(f"{now} mountd keeper: {text}", file=sys.stderr, flush=True)
    except OSError:  # its disk is full: the mount is not to end for that
        pass


def is_dead(pid: int) -> bool:
    """Whether it has ended but for a thread that the kernel keeps waiting: no signal tells of
    that, nor a pidfd (tried on Linux 6.18, also with PIDFD_THREAD)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return False


def answer(connection: int, *, more: bool) -> int:
    """Answers what waits on the mount and may hold a directory with an error; how many that
    were. The rest waits for who goes on."""
    count = 0
    try:
        os.set_blocking(connection, False)
        os.write(connection, OUT_HEADER.pack(OUT_HEADER.size, RESEND, 0))
        for _ in range(MOST_AT_ONCE):
            _, opcode, unique = IN_HEADER.unpack_from(os.read(connection, READ_BYTES))
            # Many programs ask again by themselves after EINTR.
            error = errno.EINTR if opcode in LOOKS else errno.EIO
            if opcode in LOOKS or (more and opcode in CHANGES):
                try:
                    os.write(connection, OUT_HEADER.pack(OUT_HEADER.size, -error, unique))
                    count += 1
                except FileNotFoundError:  # who asked was killed
                    pass
    except OSError:  # that was all; or the mount is gone
        pass
    return count


def abort(connection: int) -> None:
    """Ends all that waits there with an error."""
    number = ""
    with open(f"/proc/self/fdinfo/{connection}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            number = value.strip() if name == "fuse_connection" else number
    path = f"{CONNECTIONS}/{number or 'N'}/abort"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        say(f"{path} can't be written to ({error.strerror}): all that wait on the mount wait "
            f"until root types: echo 1 > {path}")  # fmt: skip
    else:
        say("all calls on the mount get an error: it is mounted again when the daemon has ended")


class Keeper:
    """One daemon after the other, on one mount."""

    def __init__(self, command: list[str], ready_fd: int | None) -> None:
        self.command = command
        self.ready_fd = ready_fd
        self.fds: tuple[int, ...] = ()  # the connection and the record
        self.pid = 0  # while there is one
        self.last = 0
        self.serves = False
        self.is_told = False  # to end
        self.crashes: list[float] = []
        self.by: float | None = None  # it has to serve
        try:
            self.directory = os.getcwd()
        except OSError:  # it was removed
            self.directory = "/"
        os.chdir("/")  # keep no other file system busy
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run(self) -> int:
        for ending in ENDING:
            signal.signal(ending, self.pass_on)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        waker, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        while True:
            status = self.life(waker)
            # Told, and dead before it could go on: the next one does, and ends as it was told to.
            is_end = not self.fds or (self.is_told and self.serves)
            if os.WIFEXITED(status):
                code = os.WEXITSTATUS(status)
                how = "ended" if self.serves else "ended at its start"
                if is_end or not self.waits_for_next(f"{how} with exit code {code}"):
                    return code
                continue
            number = os.WTERMSIG(status)
            if is_end or number in ENDING:
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)  # whoever started us is to see the same
                return 128 + number
            if not self.waits_for_next(f"was ended by signal {number}"):
                return GAVE_UP

    def waits_for_next(self, how: str) -> bool:
        """Whether there is to be another one."""
        now = time.monotonic()
        self.crashes = [at for at in self.crashes if now - at < WITHIN_S] + [now]
        count = len(self.crashes)
        if count > MOST_CRASHES:
            say(f"the daemon died {count} times in {WITHIN_S:.0f} s; giving up: the mount is dead "
                "until `mountd mount` is typed again")  # fmt: skip
            return False
        say(f"the daemon {self.last} {how}; starting another")
        if count > 1:
            time.sleep(min(FIRST_DELAY_S * 2 ** (count - 2), MOST_DELAY_S))
        return True

    def pass_on(self, number: int, frame: object) -> None:
        self.is_told = True
        if self.pid:
            try:  # noqa: SIM105 -- contextlib is not among its few modules
                os.kill(self.pid, number)
            except ProcessLookupError:  # it has just been waited for
                pass

    def life(self, waker: int) -> int:
        """Of one daemon, from its start to its end: the status of waitpid."""
        self.serves = False
        try:
            self.start()
        except OSError as error:  # no memory, or a Python that is just being replaced
            say(f"{self.command[0]} can't be started: {error.strerror}")
            return CANNOT_START << 8
        if self.is_told:  # perhaps before there was anybody to pass it on to
            os.kill(self.pid, signal.SIGTERM)
        poll = self.polled(waker)
        self.by = time.monotonic() + SERVES_WITHIN_S if self.fds else None
        while True:
            wait = LOOK_EVERY_S if self.fds else None
            status = self.look([fd for fd, _ in poll.poll(wait and wait * 1000)], waker)
            if status is not None:
                return status
            if is_dead(self.pid):
                return self.bury(waker)
            if self.by is not None and not self.serves and time.monotonic() > self.by:
                say(f"the daemon {self.pid} does not serve within {SERVES_WITHIN_S:.0f} s")
                self.crashes += [time.monotonic()] * MOST_CRASHES
                os.kill(self.pid, signal.SIGKILL)
                self.by = None

    def polled(self, waker: int) -> "select.poll":
        poll = select.poll()
        for fd in (self.ours.fileno(), waker):
            poll.register(fd, select.POLLIN)
        return poll

    def look(self, ready: list[int], waker: int) -> int | None:
        """Hears what there is to hear; the status of waitpid if it has ended."""
        if waker in ready:
            os.read(waker, 4096)
        if self.ours.fileno() in ready:
            self.hear()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid, self.last = 0, pid
        while select.select([self.ours], [], [], 0)[0]:
            self.hear()
        return status

    def bury(self, waker: int) -> int:
        """The status of a dead daemon, once the kernel lets all of its threads go. One that tells
        it to forget a name waits for the directory, which whoever has asked the daemon there holds
        until he is answered: nobody could go on, and all would wait for ever. So he gets an error,
        and where that doesn't help all do."""
        began = time.monotonic()
        is_said = is_aborted = False
        poll = self.polled(waker)
        while True:
            status = self.look([fd for fd, _ in poll.poll(STEP_S * 1000)], waker)
            if status is not None:
                return status
            waited = time.monotonic() - began
            if not self.fds or waited < FREES_AFTER_S:
                continue
            if not is_said:
                say(f"the daemon {self.pid} is dead, and the kernel keeps a thread of it waiting")
                is_said = True
            count = answer(self.fds[0], more=waited > FREES_MORE_AFTER_S)
            if count:
                say(f"{count} calls on the mount get an error, so that another one can go on")
            if waited > ABORTS_AFTER_S and not is_aborted:
                is_aborted = True
                abort(self.fds[0])

    def start(self) -> None:
        environment = dict(os.environ, MOUNTD_KEEPER_FD=str(self.theirs.fileno()))
        environment["MOUNTD_START_DIR"] = self.directory
        command = list(self.command)
        given = [self.theirs.fileno(), *self.fds]
        if self.fds:
            environment["MOUNTD_KEPT_FDS"] = ",".join(map(str, self.fds))
        elif self.ready_fd is not None:
            given.append(self.ready_fd)
            command += ["--ready-fd", str(self.ready_fd)]
        for fd in given:
            os.set_inheritable(fd, True)
        default = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
        # Who has a mount from its start ends it as always, once it can: told.py lets them come.
        waits = ENDING if self.fds else ()
        self.pid = os.posix_spawn(
            command[0], command, environment, setsigdef=default, setsigmask=waits
        )
        for fd in given:
            os.set_inheritable(fd, False)
        if self.ready_fd is not None:
            os.close(self.ready_fd)  # the starter waits for its end
            self.ready_fd = None

    def hear(self) -> None:
        word, fds, _, _ = socket.recv_fds(self.ours, 64, 2)
        if word == b"keep" and len(fds) == 2:
            for fd in self.fds:
                os.close(fd)
            self.fds = tuple(fds)
            return
        for fd in fds:
            os.close(fd)
        if word == b"serves":
            self.serves = True
        elif word == b"begins":  # the same process again
            self.serves = False
            self.by = time.monotonic() + SERVES_WITHIN_S
        elif word == b"end":
            for fd in self.fds:
                os.close(fd)
            self.fds = ()
            self.by = None


def main() -> None:
    ready_fd = int(sys.argv[1])
    os._exit(Keeper(sys.argv[2:], ready_fd if ready_fd >= 0 else None).run())


if __name__ == "__main__":
    main()
