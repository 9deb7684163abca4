"""Buckets that keep versions: what was read once is read on, whatever becomes of its key."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.config.source import parse_source
from mountd.errors import NotFound, VersionChanged
from mountd.manifest import Location, ManifestFile, make_manifest
from mountd.remotes.base import RemoteStore
from mountd.remotes.counting import CountingStore
from mountd.remotes.manifest_store import ManifestStore
from mountd.remotes.s3 import open_s3
from tests.contract.targets_s3 import S3Login, s3_settings
from tests.fakes.mounted import mounted_files, walk
from tests.servers.moto import Moto, running_moto
from tests.unit.test_writing import make, rename
from tests.unit.test_writing_races import sent

pytestmark = pytest.mark.server
DATA = bytes(range(256)) * 64
MIB = 1 << 20


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with running_moto(tmp_path_factory.mktemp("moto")) as found:
        yield found


@pytest.fixture
def store(moto: Moto) -> Iterator[RemoteStore]:
    login = S3Login(moto.endpoint, moto.access_key_id, moto.secret_access_key)
    store = open_s3(parse_source(f"s3://{moto.bucket}"), s3_settings(login))
    yield store
    store.close()


def versioning(moto: Moto, state: str) -> None:
    given = {"Status": state}
    moto.client.put_bucket_versioning(Bucket=moto.bucket, VersioningConfiguration=given)


def put(moto: Moto, key: str, data: bytes) -> str:
    """The id of the version, if it has one."""
    made = moto.client.put_object(Bucket=moto.bucket, Key=key, Body=data)
    return str(made.get("VersionId", ""))


@pytest.mark.parametrize("how", ["overwritten", "deleted"])
def test_a_version_that_was_read_once_is_read_on(moto: Moto, store: RemoteStore, how: str) -> None:
    versioning(moto, "Enabled")
    id_ = put(moto, "dir/a", DATA)
    version = store.stat("dir/a").version
    assert bytes(store.read("dir/a", 0, 100, version)) == DATA[:100]
    if how == "overwritten":
        put(moto, "dir/a", b"x" * len(DATA))
    else:
        moto.client.delete_object(Bucket=moto.bucket, Key="dir/a")
    assert bytes(store.read("dir/a", 100, 5000, version)) == DATA[100:5000]
    moto.client.delete_object(Bucket=moto.bucket, Key="dir/a", VersionId=id_)
    with pytest.raises((VersionChanged, NotFound)):
        store.read("dir/a", 100, 5000, version)


def test_what_was_never_read_has_no_id_that_anybody_knows(moto: Moto, store: RemoteStore) -> None:
    versioning(moto, "Enabled")
    put(moto, "b", DATA)
    version = store.stat("b").version
    put(moto, "b", b"x" * len(DATA))
    with pytest.raises(VersionChanged):
        store.read("b", 0, 100, version)


@pytest.mark.parametrize("how", ["overwritten", "deleted"])
def test_a_manifest_with_the_versions_id_is_read_as_it_was(
    moto: Moto, store: RemoteStore, how: str
) -> None:
    versioning(moto, "Enabled")
    id_ = put(moto, "m", DATA)
    found = store.identify("m")
    assert found.version_id == id_
    entry = found.entry
    file = ManifestFile("x", entry.size, 0, entry.version, 0, "m", version_id=id_)
    if how == "overwritten":
        put(moto, "m", b"x" * len(DATA))
    else:
        moto.client.delete_object(Bucket=moto.bucket, Key="m")
    listed = ManifestStore(make_manifest([Location("s3://b")], [file]), [store])
    assert bytes(listed.read("x", 100, 5000, entry.version)) == DATA[100:5000]


def test_what_was_written_while_versioning_was_off_does_not_stay(
    moto: Moto, store: RemoteStore
) -> None:
    versioning(moto, "Suspended")
    put(moto, "c", DATA)
    version = store.stat("c").version
    assert bytes(store.read("c", 0, 100, version)) == DATA[:100]
    put(moto, "c", b"x" * len(DATA))
    with pytest.raises(VersionChanged):
        store.read("c", 0, 100, version)


@pytest.mark.parametrize("was_read", [True, False])
@pytest.mark.parametrize("how", ["unlink", "replace"])
async def test_what_is_open_when_we_replace_it_is_read_by_its_version_and_not_fetched_before(
    moto: Moto, store: RemoteStore, tmp_path: Path, how: str, was_read: bool
) -> None:
    versioning(moto, "Enabled")
    large = DATA * (3 * MIB // len(DATA))
    put(moto, "f", large)
    counted = CountingStore(store)
    async with mounted_files(counted, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "f")).number)
        if was_read:
            assert bytes(memoryview(await fs.read(fh, 0, 100))) == large[:100]
        if how == "replace":
            await make(fs, "new", b"new")
            await rename(fs, "new", "f")
        else:
            await fs.unlink(fs.tree.root, b"f")
        before = counted.counts.down_bytes
        assert await sent(mounted) == 0
        assert not fs.tree.ledger.contents  # nothing was staged
        assert counted.counts.down_bytes - before < MIB
        assert bytes(memoryview(await fs.read(fh, 0, len(large)))) == large
        fs.release(fh)


async def test_where_versions_do_not_stay_the_rest_comes_here_first(
    moto: Moto, store: RemoteStore, tmp_path: Path
) -> None:
    versioning(moto, "Suspended")
    large = DATA * (3 * MIB // len(DATA))
    put(moto, "g", large)
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs = mounted.fs
        fh = await fs.open((await walk(fs, "g")).number)
        await fs.unlink(fs.tree.root, b"g")
        assert await sent(mounted) == 0
        assert fs.tree.ledger.contents
        assert bytes(memoryview(await fs.read(fh, 0, len(large)))) == large
        fs.release(fh)


def test_a_prefix_with_nothing_but_delete_markers_is_no_directory(
    moto: Moto, store: RemoteStore
) -> None:
    """As on S3 itself: `tests/servers/moto_server.py` sees to it."""
    versioning(moto, "Enabled")
    put(moto, "marked/below/x", b"1")
    assert [e.name for page in store.list("marked/") for e in page] == ["below"]
    store.delete("marked/below/x", None)
    assert [e.name for page in store.list("marked/") for e in page] == []
    assert "marked" not in [e.name for page in store.list("") for e in page]
