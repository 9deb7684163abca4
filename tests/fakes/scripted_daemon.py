"""A daemon's control socket whose answers a test writes down; the server is the real one."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from mountd.control.client import Daemon
from mountd.control.runtime_dir import ensure_runtime_dir, socket_path
from mountd.control.server import ControlServer, Handler
from mountd.errors import StartError

Answer = dict[str, Any] | StartError


class ScriptedDaemon:
    """`answers[op]` are given one after the other, the last one again and again. `requests` are
    what was asked, in order."""

    def __init__(self, mountpoint: str, answers: dict[str, Sequence[Answer]]) -> None:
        self.mountpoint = mountpoint
        self.requests: list[dict[str, Any]] = []
        self._answers = {op: list(script) for op, script in answers.items()}
        self._first = {op: threading.Event() for op in answers}

    @property
    def daemon(self) -> Daemon:
        return Daemon(socket_path(self.mountpoint), os.getpid())

    def asked(self, op: str) -> list[dict[str, Any]]:
        """The requests of this kind."""
        return [one for one in self.requests if one["op"] == op]

    def was_asked(self, op: str, timeout_s: float) -> bool:
        """Waits for the first request of this kind."""
        return self._first[op].wait(timeout_s)

    def handlers(self) -> dict[str, Handler]:
        return dict.fromkeys(self._answers, self._answer)

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        self._first[request["op"]].set()
        script = self._answers[request["op"]]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, StartError):
            raise answer
        return answer


@contextmanager
def scripted_daemon(
    mountpoint: Path | str, **answers: Sequence[Answer]
) -> Iterator[ScriptedDaemon]:
    """Serves in a thread, in the runtime directory that holds now; `status` is answered anyway."""
    status = {"mountpoint": str(mountpoint), "source": "s3://lab", "state": "ready"}
    scripted = ScriptedDaemon(str(mountpoint), {"status": [status], **answers})
    ensure_runtime_dir()
    server = ControlServer(scripted.daemon.socket_path, scripted.handlers())
    serving, stop = threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            token.append(trio.lowlevel.current_trio_token())
            serving.set()
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert serving.wait(10)
        yield scripted
    finally:
        token[0].run_sync_soon(stop.set)
        thread.join(10)
