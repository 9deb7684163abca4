"""Buckets that keep versions: what was read once is read on, whatever becomes of its key."""

from collections.abc import Iterator

import pytest

from mountd.errors import NotFound, VersionChanged
from mountd.manifest import Location, ManifestFile, make_manifest
from mountd.remotes.base import RemoteStore
from mountd.remotes.manifest_store import ManifestStore
from mountd.remotes.s3 import open_s3
from mountd.source import parse_source
from tests.contract.targets_s3 import S3Login, s3_settings
from tests.servers.moto import Moto, running_moto

pytestmark = pytest.mark.server
DATA = bytes(range(256)) * 64


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
