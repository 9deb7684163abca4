"""What the kill loops ask of a server that can be told to fail: the scripted S3 as it is, and the
scripted Nextcloud behind the names that S3 has for what a request does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.servers.nextcloud.launch import NextcloudServer

# By S3's name. A Nextcloud has no HEAD and no LIST: PROPFIND is both.
OPS = {
    "PutObject": "Put",
    "DeleteObject": "Delete",
    "CopyObject": "Copy",
    "CreateMultipartUpload": "MakeUpload",
    "UploadPart": "PutChunk",
    "CompleteMultipartUpload": "Assemble",
    "GetObject": "Get",
    "HeadObject": "Propfind",
    "ListObjectsV2": "Propfind",
}


class Logged(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def status(self) -> int: ...

    @property
    def bytes_received(self) -> int: ...


class Server(Protocol):
    """Operations have S3's names, or the server's own."""

    def set_knobs(self, **knobs: Any) -> None: ...

    def faults(self, *rules: dict[str, Any]) -> None: ...

    def clear_faults(self) -> None: ...

    def release(self) -> int: ...

    def refuse_connections(self, *, drop: bool = True, for_s: float | None = None) -> None: ...

    def accept_connections(self) -> None: ...

    def stats(self) -> dict[str, Any]: ...

    def clear_log(self) -> None: ...

    def log(self, *, op: str) -> "list[Any]":
        """Of Logged."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    key: str
    status: int
    bytes_received: int


class ScriptedNextcloud:
    """Server of a Nextcloud. A request to the uploads' tree has the upload's name as its key."""

    def __init__(self, server: NextcloudServer) -> None:
        self._server = server

    def set_knobs(self, **knobs: Any) -> None:
        self._server.set_knobs(**knobs)

    def faults(self, *rules: dict[str, Any]) -> None:
        self._server.faults(*map(_rule, rules))

    def clear_faults(self) -> None:
        self._server.clear_faults()

    def release(self) -> int:
        return self._server.release()

    def refuse_connections(self, *, drop: bool = True, for_s: float | None = None) -> None:
        self._server.refuse_connections(drop=drop, for_s=for_s)

    def accept_connections(self) -> None:
        self._server.accept_connections()

    def stats(self) -> dict[str, Any]:
        return self._server.stats()

    def clear_log(self) -> None:
        self._server.clear_log()

    def log(self, *, op: str) -> list[Request]:
        found = self._server.log(op=OPS.get(op, op))
        return [Request(entry.path, entry.status, entry.bytes_received) for entry in found]


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    op = str(rule.get("op", ""))
    return {**rule, "op": OPS.get(op, op)}
