"""What a successor of this process must know to answer for it: noted where it changes.

After a crash the kernel goes on with the node ids and handles that the dead daemon gave out
(docs/surviving-a-crash.md). Numbers of files are found again in the listings; what is nowhere else
is noted here: open files and directories, the keys of held directories, and which content belongs
to a file that has no name any more.
"""

from typing import NamedTuple, Protocol


class NotedFile(NamedTuple):
    """An open file: its inode, the directory it is in, and the version that it reads."""

    number: int
    parent: int
    writes: bool
    is_nameless: bool
    size: int
    mtime_ns: int
    key: str
    version: str


class NotedListing(NamedTuple):
    """An open directory, and a CRC of the names in the order in which positions count them."""

    number: int
    names: int
    crc: int


class NotedDirectory(NamedTuple):
    """A directory that the kernel holds."""

    parent: int
    key: str


class Notes(Protocol):
    """Called on the loop's thread. Each note is there for a successor when the call returns."""

    def opened(self, handle: int, file: NotedFile) -> None:
        """As `described`, of one that is new, for reading, and probably released soon."""
        ...

    def described(self, handle: int, file: NotedFile) -> None:
        """The handle reads that from now on, also where no listing has its inode any more."""
        ...

    def released(self, handle: int) -> None: ...

    def holds(self, number: int, directory: NotedDirectory) -> None:
        """It is the one with that key from now on, whoever was noted with it before."""
        ...

    def nameless(self, number: int) -> None:
        """The last name of a file that the kernel holds is about to go."""
        ...

    def owes_times(self, number: int) -> None:
        """The kernel has changed a file's times itself, and brings them some time later."""
        ...

    def brought_times(self, number: int) -> None: ...

    def is_late(self, number: int) -> bool:
        """Whether the kernel may still bring the times of that file: they were said to be owed,
        or its name is gone."""
        ...

    def edited(self, number: int) -> None:
        """A number that was made of a file's identity stands for other bytes here from now on."""
        ...

    def not_edited(self, number: int) -> None:
        """It may be made of that identity again: nobody holds those bytes under it."""
        ...

    def forgot(self, number: int) -> None:
        """The kernel holds it no more."""
        ...

    def unlinked(self, number: int, content: int) -> None:
        """The content without a name that the inode has; 0: none any more."""
        ...

    def opened_listing(self, handle: int, listing: NotedListing) -> None: ...

    def released_listing(self, handle: int) -> None: ...


class NoNotes:
    """Of a process that has no successor."""

    def opened(self, handle: int, file: NotedFile) -> None: ...

    def described(self, handle: int, file: NotedFile) -> None: ...

    def released(self, handle: int) -> None: ...

    def holds(self, number: int, directory: NotedDirectory) -> None: ...

    def nameless(self, number: int) -> None: ...

    def owes_times(self, number: int) -> None: ...

    def brought_times(self, number: int) -> None: ...

    def is_late(self, number: int) -> bool:
        return False

    def edited(self, number: int) -> None: ...

    def not_edited(self, number: int) -> None: ...

    def forgot(self, number: int) -> None: ...

    def unlinked(self, number: int, content: int) -> None: ...

    def opened_listing(self, handle: int, listing: NotedListing) -> None: ...

    def released_listing(self, handle: int) -> None: ...
