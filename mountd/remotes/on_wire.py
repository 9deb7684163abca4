"""How long an answer was on its way, as the kernel saw it: our own lateness at either end is none
of the server's.

With many requests at once on few processors, a thread of ours gets its answer 5 to 20 ms after it
has come, because others have Python's lock, and sends its body as late.
"""

import socket
import struct
from collections.abc import Mapping
from typing import Any, Final, Protocol

# `struct tcp_info` of linux/tcp.h: milliseconds since data was sent, an ack was, and data came.
_SINCE: Final = struct.Struct("=44xIII")
_CLOCK_S: Final = 0.004  # it ticks no faster everywhere
# Shorter ones are not told well enough.
LEAST_S: Final = 5 * _CLOCK_S


class Answered(Protocol):
    """An `httpcore.Response`, or what stands for one."""

    @property
    def extensions(self) -> Mapping[str, Any]: ...


def on_wire_s(response: Answered) -> float | None:
    """From the request's last byte to what came last; None where that isn't known, or short."""
    stream = response.extensions.get("network_stream")
    if stream is None:
        return None
    try:
        found = stream.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _SINCE.size
        )
        sent_ms, _, came_ms = _SINCE.unpack(found)
    except (OSError, AttributeError, struct.error):  # not Linux, not TCP, or closed by now
        return None
    took_s = (sent_ms - came_ms) / 1000
    return took_s if took_s >= LEAST_S else None
