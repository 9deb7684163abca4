"""What the control socket is asked about warming and pinning."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from mountd.errors import FileSystemError, NoEntry, RemoteError, StartError
from mountd.transfer.pins import Pins, described
from mountd.transfer.warm import Warmings

COUNTS_FOR_S: Final = 3600.0  # a tree of a million files, at 30 ms for each directory
_MAX_PATHS: Final = 1000

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Asked:
    """Raises StartError for whoever asked."""

    def __init__(self, pins: Pins, warmings: Warmings) -> None:
        self._pins = pins
        self._warmings = warmings

    def handlers(self) -> dict[str, Handler]:
        """By the name of the request."""
        return {
            "warm": self._warm,
            "warming": self._warming,
            "warm_stop": self._stop,
            "pin": self._pin,
            "pinned": self._pinned,
            "unpin": self._unpin,
        }

    async def _warm(self, request: dict[str, Any]) -> dict[str, Any]:
        paths = request.get("paths")
        if not isinstance(paths, list) or not 0 < len(paths) <= _MAX_PATHS:
            raise StartError(f'warm needs "paths", at most {_MAX_PATHS}')
        try:
            return {"job": self._warmings.begin([_path(path) for path in paths])}
        except FileSystemError as error:
            raise StartError(str(error)) from error

    async def _warming(self, request: dict[str, Any]) -> dict[str, Any]:
        """How far it is, when it has ended or after `timeout_s`."""
        number = request.get("job")
        job = self._warmings.find(number) if isinstance(number, int) else None
        if job is None:
            raise StartError("there is no such job; was it not asked about for a while?")
        wait_s = request.get("timeout_s")
        with trio.move_on_after(wait_s if isinstance(wait_s, int | float) else 0.0):
            await job.ended.wait()
        return job.as_dict()

    async def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        number = request.get("job")
        if isinstance(number, int):
            self._warmings.stop(number)
        return {}

    async def _pin(self, request: dict[str, Any]) -> dict[str, Any]:
        path = _path(request.get("path"))
        try:
            return described(await self._pins.pin(path, wait_s=COUNTS_FOR_S))
        except (FileSystemError, RemoteError, OSError, TimeoutError) as error:
            raise StartError(_why(path, error)) from error

    async def _pinned(self, request: dict[str, Any]) -> dict[str, Any]:
        tree = self._pins.at(_path(request.get("path")))
        if tree is None:
            raise StartError("it is not pinned (any more)")
        return described(tree)

    async def _unpin(self, request: dict[str, Any]) -> dict[str, Any]:
        path = _path(request.get("path"))
        try:
            await self._pins.unpin(path)
        except (FileSystemError, OSError) as error:
            raise StartError(str(error)) from error
        return {}


def _path(found: object) -> bytes:
    if not isinstance(found, str) or "\0" in found:
        raise StartError('the request needs a "path"')
    return os.fsencode(found)


def _why(path: bytes, error: Exception) -> str:
    if isinstance(error, NoEntry):
        return f"{os.fsdecode(path)} does not exist"
    return str(error) or type(error).__name__
