"""A key that the remote would refuse for its length is refused when it is made, and not sent."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from mountd.errors import NameTooLong
from mountd.remotes.azure_write import CAPABILITIES as AZURE
from mountd.remotes.base import Capabilities, KeyLimit
from mountd.remotes.buckets import BucketsStore
from mountd.remotes.object_store import ObjectStore
from mountd.remotes.s3_write import capabilities_of
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, names
from tests.unit.test_writing import directory, make, read, rename

A = "a" * 10


def store_for(provider: Capabilities, prefix: str) -> Capabilities:
    class Provider:
        capabilities = provider

    return ObjectStore(cast(Any, Provider()), cast(Any, None), prefix).capabilities


def longest(able: Capabilities, letter: str, first: str = "") -> int:
    """So many of that letter make the longest key."""
    assert able.key_limit is not None
    allowed = [n for n in range(1, 1100) if able.key_limit.allows(first + letter * n)]
    assert allowed == list(range(1, len(allowed) + 1))
    return len(allowed)


def test_s3_takes_1024_bytes_and_azure_1024_characters_with_the_prefix() -> None:
    s3 = capabilities_of(None)
    assert (longest(store_for(s3, ""), "k"), longest(store_for(s3, ""), "é")) == (1024, 512)
    assert (longest(store_for(s3, "a/b"), "k"), longest(store_for(s3, "é"), "k")) == (1020, 1021)
    assert longest(store_for(AZURE, ""), "é") == 1024
    assert longest(store_for(AZURE, "é"), "é") == 1022
    assert store_for(replace(s3, key_limit=None), "p").key_limit is None


def test_a_buckets_name_is_no_part_of_the_key() -> None:
    able = BucketsStore(cast(Any, None), cast(Any, None), capabilities_of(None)).capabilities
    assert longest(able, "k", first="bucket/") == 1024


async def test_a_path_that_is_too_long_for_the_remote_is_refused_at_once_and_asks_nothing(
    tmp_path: Path,
) -> None:
    store = MemoryStore({f"{A}/f": b"1", "s": b"2", "d/x": b"3"})
    store.key_limit = KeyLimit(20)
    async with mounted_files(store, tmp_path) as mounted:
        fs = mounted.fs
        for path in ("", A, "d"):
            await names(fs, path)
        calls = store.calls.total()
        there = await directory(fs, A)
        with pytest.raises(NameTooLong):
            await fs.create(there, b"n" * 10, {})
        with pytest.raises(NameTooLong):
            await fs.make_directory(there, b"n" * 9, {})  # its key ends with a slash
        with pytest.raises(NameTooLong):
            await fs.make_link(there, b"l", b"target", {})  # l.rclonelink
        for one in ("s", "d"):
            with pytest.raises(NameTooLong):
                await rename(fs, one, f"{A}/{'n' * 10}")
        assert await names(fs, A) == ["f"]
        assert store.calls.total() == calls
        await make(fs, f"{A}/{'n' * 9}", b"as long as can be")
        await fs.make_directory(there, b"d" * 8, {})
        await rename(fs, "s", f"{A}/{'s' * 9}")
        assert await names(fs, A) == ["d" * 8, "f", "n" * 9, "s" * 9]


@pytest.mark.parametrize("is_new", [False, True])
async def test_a_directory_is_not_renamed_where_something_below_would_be_too_long(
    tmp_path: Path, is_new: bool
) -> None:
    store = MemoryStore({} if is_new else {"d/sub/file": b"1"})
    store.key_limit = KeyLimit(20)
    async with mounted_files(store, tmp_path) as mounted:
        fs = mounted.fs
        if is_new:
            await fs.make_directory(fs.tree.root, b"d", {})
            await fs.make_directory(await directory(fs, "d"), b"sub", {})
            await make(fs, "d/sub/file", b"1")
        before = dict(fs.tree.ledger.changes)
        with pytest.raises(NameTooLong):
            await rename(fs, "d", "d" * 12)
        assert fs.tree.ledger.changes == before
        assert (await names(fs), await read(fs, "d/sub/file")) == (["d"], b"1")
        await rename(fs, "d", "d" * 11)
        assert await read(fs, f"{'d' * 11}/sub/file") == b"1"


async def test_what_the_remote_has_under_longer_keys_is_read_written_renamed_and_removed(
    tmp_path: Path,
) -> None:
    long = "l" * 30
    store = MemoryStore({long: b"1", f"{long}2": b"2"})
    store.key_limit = KeyLimit(20)
    async with mounted_files(store, tmp_path) as mounted:
        fs = mounted.fs
        assert await read(fs, long) == b"1"
        await rename(fs, long, "short")
        await fs.unlink(fs.tree.root, f"{long}2".encode())
        assert await names(fs) == ["short"]
