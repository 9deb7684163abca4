"""`user.mountd.pin` and `user.mountd.warm`: who sees only a path can ask for it to be kept here."""

from typing import Final, Protocol

from mountd.errors import NoAttribute, Unsupported
from mountd.vfs.nodes import Node

PIN: Final = b"user.mountd.pin"
WARM: Final = b"user.mountd.warm"
NAMES: Final = frozenset((PIN, WARM))


class Keeping(Protocol):
    """What is done with them. Raises FileSystemError, RemoteError, OSError."""

    def get(self, node: Node, name: bytes) -> bytes:
        """Never waits. NoAttribute where nobody asked."""
        ...

    async def set(self, node: Node, name: bytes, value: bytes) -> None: ...

    async def remove(self, node: Node, name: bytes) -> None:
        """NoAttribute where nobody asked."""
        ...


class NothingKept:
    """Where there is nobody who could."""

    def get(self, node: Node, name: bytes) -> bytes:
        raise NoAttribute(name)

    async def set(self, node: Node, name: bytes, value: bytes) -> None:
        raise Unsupported("nothing is pinned here")

    async def remove(self, node: Node, name: bytes) -> None:
        raise NoAttribute(name)
