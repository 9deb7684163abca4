"""What FUSE_INIT is answered with, and which answers a successor goes on with."""

import os
import socket

import pytest

from mountd.fusefs.takeover import (
    HANDLE_KILLPRIV_V2,
    IN_HEADER,
    INIT,
    OUT_HEADER,
    Greeting,
    GreetingDiffers,
    Successor,
    agreed,
)

WRITEBACK = 1 << 16
GETATTR = 3


def init(flags: int) -> bytes:
    """What the kernel sends; as much of it as counts here."""
    body = b"".join(word.to_bytes(4, "little") for word in (7, 44, 1 << 20, flags))
    body += bytes(48)
    return IN_HEADER.pack(IN_HEADER.size + len(body), INIT, 2, 0, 0, 0, 1, 0, 0) + body


def answer(flags: int, error: int = 0) -> bytes:
    body = b"".join(word.to_bytes(4, "little") for word in (7, 34, 1 << 20, flags))
    body += bytes(range(48))
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), error, 2) + body


OFFER = init(WRITEBACK | HANDLE_KILLPRIV_V2)


def test_a_kernel_that_can_leave_the_set_id_bits_to_us_is_told_so() -> None:
    said = answer(WRITEBACK)
    assert agreed(OFFER, said) == answer(WRITEBACK | HANDLE_KILLPRIV_V2)
    assert agreed(OFFER, agreed(OFFER, said)) == agreed(OFFER, said)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (init(WRITEBACK), answer(WRITEBACK)),
        (OFFER, answer(WRITEBACK, error=-71)),
        (OFFER, answer(WRITEBACK)[:20]),
        (OFFER[:50], answer(WRITEBACK)),
        (OFFER, b""),
    ],
)
def test_other_kernels_and_what_is_no_answer_get_what_libfuse_said(
    request_: bytes, said: bytes
) -> None:
    assert agreed(request_, said) == said


async def go_on(recorded: bytes, said: bytes) -> None:
    """A successor's first steps, where its libfuse says that."""
    ours, kernels = socket.socketpair()
    with ours, kernels:
        kernels.send(IN_HEADER.pack(IN_HEADER.size, GETATTR, 4, 1, 0, 0, 1, 0, 0))
        successor = Successor(ours.fileno(), Greeting(OFFER, recorded))
        try:
            await successor.next(successor.fd)
            assert os.read(successor.fd, 1 << 16) == OFFER
            os.write(successor.fd, said)
            await successor.next(successor.fd)
        finally:
            os.close(successor.fd)


@pytest.mark.parametrize("recorded", [answer(WRITEBACK), answer(WRITEBACK | HANDLE_KILLPRIV_V2)])
async def test_a_mount_is_gone_on_with_whether_or_not_its_kernel_leaves_the_bits_to_us(
    recorded: bytes,
) -> None:
    await go_on(recorded, answer(WRITEBACK))


async def test_a_mount_whose_kernel_was_told_something_else_is_not() -> None:
    with pytest.raises(GreetingDiffers):
        await go_on(answer(0), answer(WRITEBACK))
    with pytest.raises(GreetingDiffers):
        await go_on(answer(HANDLE_KILLPRIV_V2), answer(WRITEBACK))
