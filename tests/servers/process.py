"""A server as a child process on 127.0.0.1: a free port, ready when it answers, gone at the end."""

import http.client
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
_GIVEN_BY_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RANDOM = random.SystemRandom()


def free_port() -> int:
    """A port that nobody listened on a moment ago, and that the kernel gives to nobody who asks for
    any: until the server that it is for has started, the other tests take many of those."""
    first = int(_GIVEN_BY_THE_KERNEL.read_text().split()[0])
    while True:
        port = _RANDOM.randrange(first // 2, first)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@cache
def dead_port() -> int:
    """A port that refuses connections as long as this process lives: it is bound, so that no server
    of another test takes it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    sock.detach()
    return port


@contextmanager
def running_process(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` until the block ends; yields when any HTTP answer came from `port`.

    Its output goes to the file `log`. RuntimeError with the end of that log when it does not come
    up. It is stopped by its process id: SIGTERM, and SIGKILL after 10 s.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        )
    try:
        _wait_until_it_answers(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        # One question that waits, and no second one while the first is worked at: moto counts those
        # that it takes without a signature (a busy machine had it answer after more than 5 s).
        left_s = max(deadline - time.monotonic(), 0.1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=left_s)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except (OSError, http.client.HTTPException):
            # Nothing tells us when a foreign server is ready but its answering.
            time.sleep(0.05)
        finally:
            connection.close()
    tail = log.read_bytes()[-2000:].decode(errors="replace")
    raise RuntimeError(f"{process.args!r} did not come up (exit {process.poll()}):\n{tail}")
