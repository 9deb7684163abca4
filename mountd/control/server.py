"""The daemon's end of the control socket: JSON lines, one request, one answer, then closed.

A request is an object with `op`; the answer is `{"ok": true, "answer": {...}}` or
`{"ok": false, "error": "one line", "exit_code": n}`. Only the daemon's user and root are heard.
"""

import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from mountd.control.client import is_alive
from mountd.control.runtime_dir import short_address
from mountd.errors import ExitCode, StartError

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

MAX_REQUEST_BYTES = 64 << 10
MAX_CLIENTS = 32  # at once; a 33rd is closed unheard
_LONGEST_WAIT_S = 7 * 86400.0

log = logging.getLogger(__name__)


class SocketTaken(StartError):
    """Another daemon answers on this socket."""


class ControlServer:
    """Answers on the unix socket `path`, whose directory exists and is 0700.

    A handler gets the whole request and returns the answer. A StartError that it raises is told
    with its exit code; any other exception is logged and told as an internal error. A handler that
    takes longer than the request's `timeout_s` (default `handler_timeout_s`) and a little is
    cancelled.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        request_timeout_s: float = 10.0,
        handler_timeout_s: float = 30.0,
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._request_timeout_s = request_timeout_s
        self._handler_timeout_s = handler_timeout_s
        self._clients = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled, then removes the socket; `started` when it can be connected to.

        Raises SocketTaken where another daemon answers on it, StartError where it can't be made.
        """
        listener, inode = self._listen()
        try:
            # serve_listeners waits out EMFILE and its like instead of ending.
            await trio.serve_listeners(
                self._serve_client, [trio.SocketListener(listener)], task_status=_Ready(task_status)
            )
        finally:
            listener.close()
            self._remove_socket(inode)

    def _listen(self) -> tuple[trio.socket.SocketType, int]:
        self._check_free()
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Renamed into place when it listens, so that nobody takes it for a dead daemon's.
        fresh = self._path.with_name(f".{self._path.name}.{threading.get_native_id()}")
        try:
            fresh.unlink(missing_ok=True)
            with short_address(fresh) as address:
                raw.bind(address)
            os.chmod(fresh, 0o600)
            raw.listen(MAX_CLIENTS)
            inode = os.stat(fresh).st_ino
            self._put_in_place(fresh)
        except StartError:
            raw.close()
            raise
        except OSError as error:
            raw.close()
            raise StartError(
                f"cannot make the control socket {self._path}: {error.strerror}"
            ) from error
        return trio.socket.from_stdlib_socket(raw), inode

    def _put_in_place(self, fresh: Path) -> None:
        """A link, which takes nobody's place: of two daemons that start at once one is refused."""
        try:
            os.link(fresh, self._path)
        except OSError:  # taken since we looked; or a dead one's that stays; or there are no links
            try:
                self._check_free()
            except SocketTaken:
                fresh.unlink()
                raise
            os.rename(fresh, self._path)
        else:
            fresh.unlink()

    def _check_free(self) -> None:
        if is_alive(self._path):
            raise SocketTaken(f"another daemon answers on {self._path}; stop it first")

    def _remove_socket(self, inode: int) -> None:
        try:
            if os.stat(self._path).st_ino == inode:
                os.unlink(self._path)
        except OSError as error:
            log.debug("control socket %s was already gone: %s", self._path, error)

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        if self._clients >= MAX_CLIENTS or not _may_ask(stream.socket):
            await stream.aclose()
            return
        self._clients += 1
        try:
            async with stream:
                answer = await self._answer(stream)
                if answer is not None:
                    with trio.move_on_after(self._request_timeout_s):
                        await stream.send_all(json.dumps(answer).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a control client left before its answer")
        finally:
            self._clients -= 1

    async def _answer(self, stream: trio.SocketStream) -> dict[str, Any] | None:
        """None where the client went away, or was too slow, without having asked anything."""
        try:
            with trio.fail_after(self._request_timeout_s):
                line = await _read_line(stream)
            if line is None:
                return None
            request = json.loads(line)
        except trio.TooSlowError:
            return _refusal("no request came in time")
        except (ValueError, RecursionError):
            return _refusal("the request is no line of JSON, or too long")
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            return _refusal('the request is no object with an "op"')
        return await self._run_handler(request)

    async def _run_handler(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request["op"]
        handler = self._handlers.get(op)
        if handler is None:
            return _refusal(f"unknown op {op[:40]!r}")
        wait_s = self._handler_timeout_s
        asked = request.get("timeout_s")
        if isinstance(asked, int | float) and 0 <= asked <= _LONGEST_WAIT_S:
            wait_s += asked
        try:
            with trio.fail_after(wait_s):
                return {"ok": True, "answer": await handler(request)}
        except trio.TooSlowError:
            return _refusal(f"{op} did not end within {wait_s:.0f} s")
        except StartError as error:
            return _refusal(str(error), error.exit_code)
        except Exception:
            # The outermost edge: whatever a request does, the mount goes on serving.
            log.exception("control request %r failed", op)
            return _refusal(f"{op} failed in the daemon; its log says why")


class _Ready(trio.TaskStatus[list[trio.SocketListener]]):
    """Tells our caller that we serve, without handing out the listeners."""

    def __init__(self, outer: trio.TaskStatus[None]) -> None:
        self._outer = outer

    def started(self, value: list[trio.SocketListener] | None = None) -> None:
        self._outer.started()


async def _read_line(stream: trio.SocketStream) -> bytes | None:
    """One line without its end; None at an end without any byte. ValueError when it is too long."""
    data = bytearray()
    async for chunk in stream:
        data += chunk
        line, newline, _ = data.partition(b"\n")
        if len(line) > MAX_REQUEST_BYTES:
            raise ValueError("request too long")
        if newline:
            return bytes(line)
    return bytes(data) if data else None


def _may_ask(sock: trio.socket.SocketType) -> bool:
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    if uid in (0, os.geteuid()):
        return True
    log.warning("a control request of user %d was refused", uid)
    return False


def _refusal(error: str, exit_code: ExitCode = ExitCode.RUNTIME) -> dict[str, Any]:
    return {"ok": False, "error": error, "exit_code": int(exit_code)}
