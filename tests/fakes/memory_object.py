"""What `MemoryStore` keeps by key: an object, and the directories that a key implies."""

from dataclasses import dataclass

from mountd.remotes.base import Upload

FOREIGN = Upload()


@dataclass(frozen=True, slots=True)
class MemoryObject:
    data: bytes
    generation: int
    mtime_ns: int
    upload: Upload = FOREIGN

    @property
    def version(self) -> str:
        return f"g{self.generation}"


def parents_of(key: str) -> set[str]:
    """The directories above a key, each with its slash."""
    parts = key.removesuffix("/").split("/")[:-1]
    return {"/".join(parts[: n + 1]) + "/" for n in range(len(parts))}
