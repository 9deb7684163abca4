"""What only some remotes can do. The wrappers have these doors too, and say Unsupported for a
store that has not; `Capabilities` says it without asking."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from mountd.errors import Unsupported
from mountd.remotes.base import Identity, Quota, RemoteStore, Upload
from mountd.types import Entry


@runtime_checkable
class TellsQuota(Protocol):
    def quota(self) -> Quota:
        """The room where the mounted prefix is. One small request; raises any `RemoteError`."""
        ...


@runtime_checkable
class MovesDirectories(Protocol):
    def move_dir(self, source: str, key: str) -> None:
        """Moves a directory with all that is in it, on the remote's side and in one step; what
        is inside keeps its versions. Both keys end with a slash.

        NotFound where it, or the new parent, is missing; VersionChanged where something is at
        `key` already. After Unreachable it may have happened, or may happen yet: then look.
        """
        ...


@runtime_checkable
class MovesFiles(Protocol):
    def move_file(self, source: str, version: str, key: str) -> Entry:
        """Gives that version of a file another key, on the remote's side and in one step; what
        hangs on it there goes along, as does its mtime. The entry is as it is at `key`.

        NotFound where it, or the new parent, is missing; VersionChanged where it is another
        version, or something is at `key`; Unsupported where it can't be told that this is one
        step. After Unreachable, Throttled and Locked it may have happened, or may happen yet; a
        proxy may have sent it twice, so after NotFound and VersionChanged, too: then look.
        """
        ...


@runtime_checkable
class RemovesTrees(Protocol):
    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        """Removes a directory with all that is in it, by one request. `inside`: every key that may
        be below it, with a file's version, and "" for a directory; what is missing does no harm.

        VersionChanged where anything else is in there, or was changed meanwhile, and Unsupported
        where that can't be told; then nothing was removed. NotFound where the directory is missing.
        After Unreachable it may have happened.
        """
        ...


@runtime_checkable
class PreparesChanges(Protocol):
    def prepare_changes(self) -> None:
        """Finds out now what the first change would have to find out before it goes. May be called
        again. Raises any `RemoteError`; then the first change asks."""
        ...


@runtime_checkable
class TellsChanges(Protocol):
    async def listen(self, changed: Callable[[], None]) -> None:
        """Calls `changed`, on the loop's thread, when anything may have changed elsewhere. Best
        effort: whoever needs to know asks. Until cancelled, or until there is nothing to hear."""
        ...


@runtime_checkable
class KnowsVersionIds(Protocol):
    def note_version_id(self, key: str, version: str, version_id: str) -> bool:
        """From now on a read of that version also finds it where it was replaced or deleted; False
        where versions don't stay."""
        ...


@runtime_checkable
class KeepsVersions(Protocol):
    def keeps_version(self, key: str, version: str) -> bool:
        """Whether that version, which is at the key now, will be read when it was replaced or
        deleted; from now on a read finds it. It is tried out: two small requests. May raise any
        `RemoteError`."""
        ...


@runtime_checkable
class CopiesFrom(Protocol):
    def copy_from(
        self,
        other: RemoteStore,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
    ) -> Entry:
        """As `RemoteStore.copy`, of a file in another bucket of the same account."""
        ...


def copy_between(
    other: RemoteStore,
    source: str,
    version: str,
    store: RemoteStore,
    key: str,
    expect: str | None,
    upload: Upload,
) -> Entry:
    """As `CopiesFrom.copy_from`. Unsupported where the remote can't do that."""
    if not isinstance(store, CopiesFrom):
        raise Unsupported("this remote copies only within a bucket")
    return store.copy_from(other, source, version, key, expect, upload)


@runtime_checkable
class TellsChecksums(Protocol):
    def checksums(self, key: str) -> Identity:
        """As `identify`, with every checksum that the remote tells, also those that cost a right
        or a request more. `upload_id` may be left out."""
        ...


def checksums_in(store: RemoteStore, key: str) -> Identity:
    """As `TellsChecksums.checksums`, or as `identify` where that tells all."""
    return store.checksums(key) if isinstance(store, TellsChecksums) else store.identify(key)


def note_version_id(store: RemoteStore, key: str, version: str, version_id: str) -> bool:
    """As `KnowsVersionIds.note_version_id`."""
    return isinstance(store, KnowsVersionIds) and store.note_version_id(key, version, version_id)


def keeps_version_in(store: RemoteStore, key: str, version: str) -> bool:
    """As `KeepsVersions.keeps_version`."""
    return isinstance(store, KeepsVersions) and store.keeps_version(key, version)


def quota_of(store: RemoteStore) -> Quota:
    """As `TellsQuota.quota`. Unsupported where the remote tells none."""
    if not isinstance(store, TellsQuota):
        raise Unsupported("this remote does not tell its room")
    return store.quota()


def move_dir_in(store: RemoteStore, source: str, key: str) -> None:
    """As `MovesDirectories.move_dir`. Unsupported where directories move file by file."""
    if not isinstance(store, MovesDirectories):
        raise Unsupported("this remote moves no directories")
    store.move_dir(source, key)


def move_file_in(store: RemoteStore, source: str, version: str, key: str) -> Entry:
    """As `MovesFiles.move_file`. Unsupported where a file is copied and deleted."""
    if not isinstance(store, MovesFiles):
        raise Unsupported("this remote moves no files")
    return store.move_file(source, version, key)


def remove_tree_in(store: RemoteStore, key: str, inside: Mapping[str, str]) -> None:
    """As `RemovesTrees.remove_tree`. Unsupported where everything is removed by itself."""
    if not isinstance(store, RemovesTrees):
        raise Unsupported("this remote removes no trees")
    store.remove_tree(key, inside)


def prepare_changes_in(store: RemoteStore) -> None:
    """As `PreparesChanges.prepare_changes`. Does nothing where there is nothing to find out."""
    if isinstance(store, PreparesChanges):
        store.prepare_changes()
