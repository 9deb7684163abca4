"""The connection to the kernel outlives the process: recording FUSE_INIT, and going on after it.

docs/surviving-a-crash.md has what was tried. The kernel sends FUSE_INIT once. So the first daemon
reads it here, before libfuse does, and a successor's libfuse is given the recorded one. libfuse
reads and answers at one descriptor all the time: a `Stand`, a file in memory, is put at its number
where it is to be given something else than what the kernel sends. It holds one message; libfuse
reads that, and what it answers at once lands behind it.

What the dead daemon had read and not answered, FUSE_NOTIFY_RESEND makes the kernel send again (with
the highest bit of the request's number set), before anything else: `Successor.resent` tells the
handlers, because the dead one may have done what it did not answer.
"""

import logging
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

log = logging.getLogger(__name__)

IN_HEADER: Final = struct.Struct("=IIQQIIIHH")  # struct fuse_in_header of linux/fuse.h
OUT_HEADER: Final = struct.Struct("=IiQ")  # struct fuse_out_header
INIT: Final = 26  # opcodes
FORGET, INTERRUPT, BATCH_FORGET = 2, 36, 42
NO_ANSWER: Final = frozenset((FORGET, INTERRUPT, BATCH_FORGET))
RESEND: Final = 7  # FUSE_NOTIFY_RESEND
RESENT_BIT: Final = 1 << 63  # FUSE_UNIQUE_RESEND
INIT_EXT: Final = 1 << 30
HAS_RESEND: Final = 1 << 7  # FUSE_HAS_RESEND, of the second word of flags
HANDLE_KILLPRIV_V2: Final = 1 << 28  # FUSE_HANDLE_KILLPRIV_V2, of the first
FLAGS: Final = struct.Struct("=I")
INIT_FLAGS_AT: Final = IN_HEADER.size + 12
ANSWER_FLAGS_AT: Final = OUT_HEADER.size + 12
READ_BYTES: Final = (1 << 20) + 4096  # libfuse's buffer: 256 pages and a head; INIT needs 8 KiB


@dataclass(frozen=True, slots=True)
class Greeting:
    """FUSE_INIT as the kernel sent it, and what was answered: both with their headers."""

    request: bytes
    answer: bytes

    @property
    def can_resend(self) -> bool:
        """Whether this kernel sends again what a dead daemon had read (since Linux 6.9)."""
        if len(self.request) < INIT_FLAGS_AT + 8:
            return False
        flags, more = struct.unpack_from("=II", self.request, INIT_FLAGS_AT)
        return bool(flags & INIT_EXT and more & HAS_RESEND)

    def is_sound(self) -> bool:
        """Whether it can be given to libfuse: what is read from outside is checked by this."""
        return _is_init(self.request) and _answers_init(self.answer, self.request)


def agreed(request: bytes, answer: bytes) -> bytes:
    """libfuse's answer to FUSE_INIT, and HANDLE_KILLPRIV_V2 where the kernel has it, which libfuse
    3.14 does not know (set_ids.py)."""
    if not (_is_init(request) and _answers_init(answer, request)):
        return answer
    (offered,) = FLAGS.unpack_from(request, INIT_FLAGS_AT)
    (taken,) = FLAGS.unpack_from(answer, ANSWER_FLAGS_AT)
    taken |= offered & HANDLE_KILLPRIV_V2
    return answer[:ANSWER_FLAGS_AT] + FLAGS.pack(taken) + answer[ANSWER_FLAGS_AT + FLAGS.size :]


class GreetingDiffers(Exception):
    """This code answers FUSE_INIT in another way than the kernel was told."""


class ConnectionLost(Exception):
    """The mount was taken away, or the connection was aborted."""


def _is_init(message: bytes) -> bool:
    if len(message) < IN_HEADER.size + 16:
        return False
    length, opcode, unique = IN_HEADER.unpack_from(message)[:3]
    return bool(length == len(message) and opcode == INIT and unique)


def _answers_init(answer: bytes, request: bytes) -> bool:
    if len(answer) < OUT_HEADER.size + 24:
        return False
    length, error, unique = OUT_HEADER.unpack_from(answer)
    return bool(length == len(answer) and not error and unique == IN_HEADER.unpack_from(request)[2])


class Stand:
    """Stands at libfuse's descriptor in place of the kernel, for one message at a time."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("mountd-request", os.MFD_CLOEXEC)
        self._length = 0

    def give(self, message: bytes) -> None:
        """What libfuse reads next."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, message, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self._length = len(message)

    def answers(self) -> list[bytes]:
        """What libfuse has answered since `give`."""
        size = os.fstat(self.fd).st_size
        data = os.pread(self.fd, size - self._length, self._length)
        found = []
        while len(data) >= OUT_HEADER.size:
            length = max(OUT_HEADER.size, OUT_HEADER.unpack_from(data)[0])
            found.append(data[:length])
            data = data[length:]
        os.ftruncate(self.fd, self._length)
        os.lseek(self.fd, self._length, os.SEEK_SET)
        return found

    def close(self) -> None:
        os.close(self.fd)


class Beginning:
    """The first requests of a connection as `request_loop` reads them: `next` is called before each
    one until `is_over`. `kernel_fd` is the connection itself from then on; `on_greeted` is called
    once with what was said."""

    def __init__(self, on_greeted: Callable[[int, Greeting], None]) -> None:
        self.is_over = False
        self.resent = False  # whether the request that is handled now was sent before
        self._on_greeted = on_greeted
        self._stand: Stand | None = None
        self._kernel_fd = -1
        self._request = b""

    async def next(self, fd: int) -> None:
        """libfuse may read at `fd` now."""
        if self.is_over:  # and who was told so last has been cancelled since
            await trio.lowlevel.wait_readable(fd)
            return
        if self._stand is None:
            await trio.lowlevel.wait_readable(fd)
            self._request = os.read(fd, READ_BYTES)
            self._kernel_fd = os.dup(fd)
            self._stand = Stand()
            self._stand.give(self._request)
            os.dup2(self._stand.fd, fd, inheritable=False)
            return
        answers = self._stand.answers()
        answers[:1] = [agreed(self._request, answer) for answer in answers[:1]]
        for answer in answers:
            os.write(self._kernel_fd, answer)
        os.dup2(self._kernel_fd, fd, inheritable=False)
        self._stand.close()
        self.is_over = True
        self._on_greeted(self._kernel_fd, Greeting(self._request, b"".join(answers[:1])))
        await trio.lowlevel.wait_readable(fd)


class Successor:
    """As `Beginning`, on a connection that another daemon had. libfuse is to be started with
    /dev/fd/N, N being `fd`. Raises GreetingDiffers before anything was read from the kernel, and
    ConnectionLost."""

    def __init__(self, kernel_fd: int, greeting: Greeting) -> None:
        self.is_over = False
        self.resent = False
        self.replayed = 0
        self._kernel_fd = kernel_fd
        self._greeting = greeting
        self._stand = Stand()
        self._stand.give(greeting.request)
        self.fd = os.dup(self._stand.fd)
        self._step = 0
        self._is_last = False
        self._is_lost = False

    async def next(self, fd: int) -> None:
        self.resent = False
        if self.is_over:
            await trio.lowlevel.wait_readable(fd)
            return
        if self._is_lost:  # the other workers come by before they are cancelled
            await trio.sleep_forever()
        self._step += 1
        if self._step == 1:
            return  # libfuse reads FUSE_INIT
        answers = self._stand.answers()
        if self._step == 2:
            self._check(answers)
            os.set_blocking(self._kernel_fd, False)
            self._tell(OUT_HEADER.pack(OUT_HEADER.size, RESEND, 0))
        else:
            for answer in answers:
                self._tell(answer)
        if not self._is_last and self._give_next():
            return
        os.set_blocking(self._kernel_fd, True)
        os.dup2(self._kernel_fd, fd, inheritable=False)
        self._stand.close()
        self.is_over = True
        await trio.lowlevel.wait_readable(fd)

    def _give_next(self) -> bool:
        """Whether there is one more that the stand is needed for."""
        try:
            message = os.read(self._kernel_fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self._is_lost = True
            raise ConnectionLost(
                f"its connection was closed meanwhile ({error.strerror})"
            ) from error
        _, opcode, unique = IN_HEADER.unpack_from(message)[:3]
        self.resent = bool(unique & RESENT_BIT) and opcode not in NO_ANSWER
        self.replayed += self.resent
        # Those that are sent again come before all others, but for these.
        self._is_last = not self.resent and opcode not in NO_ANSWER
        self._stand.give(message)
        return True

    def _tell(self, answer: bytes) -> None:
        try:
            os.write(self._kernel_fd, answer)
        except OSError as error:  # ENOENT: whoever asked was killed
            log.debug("an answer was not wanted any more: %s", error)

    def _check(self, answers: list[bytes]) -> None:
        request, answer = self._greeting.request, self._greeting.answer
        # A mount that was made before that flag was taken goes on without it.
        if not answers or answer not in (answers[0], agreed(request, answers[0])):
            self._is_lost = True
            raise GreetingDiffers("this mountd answers FUSE_INIT in another way than the former")
