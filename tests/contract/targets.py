"""What the contract suite needs of a remote, and how a remote joins the suite.

To add one: a module `tests/contract/targets_<name>.py` with `TARGETS`, a sequence of
`TargetFactory`. It is found by its name. A factory starts its server once per test session and
then makes one `Target` per test, each with a bucket or prefix of its own.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

import pytest

from mountd.remotes.base import RemoteStore


class Limit(Enum):
    """What a remote can't do or say. A test that needs it is skipped there, by this name."""

    NO_DOUBLE_SLASH = auto()  # keys such as `a//b` and `/lead`
    NO_DOT_SEGMENTS = auto()  # keys such as `x/../y` and `./x`
    NO_BOTH_FILE_AND_PREFIX = auto()  # `k` and `k/x` side by side
    NO_MARKERS = auto()  # an object `dir/` (an empty directory is made some other way, or not)
    NO_CONTROL_CHARACTERS = auto()  # tab, bell and the like in names
    NO_BACKSLASHES = auto()  # `\` becomes `/`
    NO_NEWLINES = auto()  # a line feed in names
    NO_ODD_CHARACTERS = auto()  # even `%`, `#`, `?` or a space break this remote's client
    NO_CONDITIONAL_READ = auto()  # a read of an old version may fail late, after the bytes
    NO_VERSIONS = auto()  # a version is size and mtime: a change in the same second may hide
    NAMES_NORMALISED = auto()  # NFC and NFD are one name
    NAME_BYTES_LIMIT = auto()  # names of 255 bytes don't fit
    MTIME_SECONDS = auto()  # mtimes are whole seconds
    EMPTY_DIRECTORIES_STAY = auto()  # directories are real: they outlive their last file
    # What it can't do when writing. The store looks first and then acts where the remote doesn't
    # enforce a condition, so only races are skipped.
    NO_CONDITIONAL_PUT = auto()
    NO_CONDITIONAL_DELETE = auto()
    IGNORES_CONDITIONS = auto()  # this server ignores what the real one enforces: no `expect` holds
    NO_ATTRIBUTES = auto()  # no place for metadata beside the bytes, nor for an upload id
    ONLY_UPLOAD_ID = auto()  # of what goes with the bytes only the upload id is kept
    NO_MTIME = auto()  # a file's mtime is the time of its upload
    NO_SERVER_COPY = auto()
    NO_TREE = auto()  # no recursive listing
    NO_QUERY_CHARACTERS = auto()  # no `?`, `;` and control characters in names that are written
    NO_MAKE_DIR = auto()  # directories can't be made, only come and go with their files
    REFUSES_SLOWLY = auto()  # a wrong password is answered late, against those who guess
    SLOW = auto()  # paging is tested with few entries and a small page, not with 2,500


class Broken(Enum):
    """A store that can't work, asked of a target with `broken_store`."""

    WRONG_KEYS = auto()
    MISSING_CONTAINER = auto()
    DEAD_PORT = auto()  # nothing listens there


class Target(Protocol):
    """One remote, with a place of its own for one test."""

    @property
    def limits(self) -> frozenset[Limit]: ...

    def seed(self, objects: Mapping[str, bytes]) -> None:
        """Creates these objects, by other means than the store: a different client, or the file
        system below the server. A key with a slash at its end is a directory marker (or, where
        directories are real, an empty directory)."""
        ...

    def overwrite(self, key: str, data: bytes) -> None:
        """Replaces an object. Waits where that is needed for the version to change."""
        ...

    def remove(self, key: str) -> None: ...

    def store(self, page_size: int | None = None) -> RemoteStore:
        """A new store at this place; the fixture closes it. A remote that has no pages, or no
        such option, ignores `page_size`."""
        ...

    def broken_store(self, how: Broken) -> RemoteStore | None:
        """None where it makes no sense for this remote. `request_timeout_s` should be ~5."""
        ...


MakeTarget = Callable[[str], Target]


@dataclass(frozen=True, slots=True)
class TargetFactory:
    """`running()` starts the server, gives a function that makes a Target from a name (letters,
    digits and hyphens, different for each test) and stops the server at the end."""

    name: str
    running: Callable[[], AbstractContextManager[MakeTarget]]
    is_server: bool = True


def all_factories() -> Sequence[TargetFactory]:
    """Every factory of every `targets_*` module beside this one, the memory store first."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("targets_*.py"))
    modules.sort(key=lambda name: name != "targets_memory")
    found: list[TargetFactory] = []
    for name in modules:
        found.extend(importlib.import_module(f"tests.contract.{name}").TARGETS)
    return found


def skip_if(target: Target, *limits: Limit) -> None:
    """Skips the calling test where the remote has one of `limits`."""
    met = [limit.name for limit in limits if limit in target.limits]
    if met:
        pytest.skip(f"this remote has {', '.join(met)}")
