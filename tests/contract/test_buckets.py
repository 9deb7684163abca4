"""A bare `s3://`, `az://` and `gs://`: the account's buckets are its directories."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mountd.config.source import parse_source
from mountd.errors import Denied, NotFound, Unsupported, UsageError, VersionChanged
from mountd.remotes.azure import open_azure
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.remotes.gcs import open_gcs
from mountd.remotes.s3 import open_s3
from mountd.types import Kind
from tests.contract.targets_azure import azure_settings
from tests.contract.targets_gcs import gcs_settings
from tests.contract.targets_s3 import S3Login, s3_settings
from tests.contract.test_listing import entries
from tests.contract.test_reading import read
from tests.fakes.body import BytesBody
from tests.servers.azurite import ACCOUNT_KEY, running_azurite
from tests.servers.gcs_emulator import running_gcs_emulator
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server
Account = Callable[[ExitStack, Path], RemoteStore]


def s3_account(stack: ExitStack, directory: Path) -> RemoteStore:
    server = stack.enter_context(S3Server())
    server.put("first", "d/x", b"one")
    server.put("second", "y", b"two")
    login = S3Login(server.endpoint, server.access_key, server.secret_key)
    return open_s3(parse_source("s3://"), s3_settings(login))


def azure_account(stack: ExitStack, directory: Path) -> RemoteStore:
    azurite = stack.enter_context(running_azurite(directory))
    azurite.service.delete_container(azurite.container)
    for container, key, data in (("first", "d/x", b"one"), ("second", "y", b"two")):
        azurite.service.create_container(container).upload_blob(key, data)
    return open_azure(
        parse_source("az://"), azure_settings(azurite.endpoint, account_key=ACCOUNT_KEY)
    )


def gcs_account(stack: ExitStack, directory: Path) -> RemoteStore:
    emulator = stack.enter_context(running_gcs_emulator(directory))
    emulator.client.bucket(emulator.bucket).delete()
    for bucket, key, data in (("first", "d/x", b"one"), ("second", "y", b"two")):
        emulator.client.create_bucket(bucket).blob(key).upload_from_string(data, retry=None)
    return open_gcs(parse_source("gs://"), gcs_settings(emulator.endpoint, project="test"))


@pytest.fixture(scope="module", params=[s3_account, azure_account, gcs_account])
def account(request: pytest.FixtureRequest) -> Iterator[RemoteStore]:
    make: Account = request.param
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        store = make(stack, Path(directory))
        yield store
        store.close()


def test_buckets_are_directories_and_their_objects_are_below(account: RemoteStore) -> None:
    assert sorted((entry.name, entry.kind) for entry in entries(account)) == [
        ("first", Kind.DIRECTORY),
        ("second", Kind.DIRECTORY),
    ]
    assert account.stat("").kind is Kind.DIRECTORY
    assert account.stat("first/").name == "first"
    assert [entry.name for entry in entries(account, "first/")] == ["d"]
    assert [entry.name for entry in entries(account, "first/d/")] == ["x"]
    assert account.stat("first/d/x").size == 3
    assert read(account, "first/d/x", 0, 3) == b"one"
    assert read(account, "second/y", 1, 3) == b"wo"


def test_a_missing_bucket_is_a_missing_directory(account: RemoteStore) -> None:
    calls: list[Callable[[], object]] = [
        lambda: account.stat("nothing/"),
        lambda: account.stat("nothing"),
        lambda: entries(account, "nothing/"),
        lambda: account.read("nothing/x", 0, 1, ""),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_bucket_is_made_only_where_it_is_there_already(account: RemoteStore) -> None:
    account.make_dir("first/")
    with pytest.raises(NotFound):
        account.make_dir("nothing/")
    with pytest.raises(Unsupported):
        account.remove_dir("first/")
    with pytest.raises(Unsupported):
        account.put("beside", BytesBody(b""), ABSENT, Upload())


def test_a_file_is_copied_from_one_bucket_to_another(account: RemoteStore) -> None:
    found = account.stat("first/d/x")
    made = account.copy("first/d/x", found.version, "second/copied", ABSENT, Upload("id"))
    assert (made.name, made.size) == ("copied", 3)
    assert read(account, "second/copied", 0, 3) == b"one"
    assert account.identify("second/copied").upload_id == "id"
    with pytest.raises(VersionChanged):
        account.copy("first/d/x", "another", "second/more", ABSENT, Upload())
    with pytest.raises(NotFound):
        account.stat("second/more")
    account.delete("second/copied", None)


def test_wrong_keys_are_denied_and_not_an_empty_account() -> None:
    with S3Server() as server:
        settings = s3_settings(S3Login(server.endpoint, server.access_key, "wrong"))
        store = open_s3(parse_source("s3://"), settings)
        with pytest.raises(Denied):
            entries(store)
        store.close()


def test_a_bare_gs_without_a_project_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(UsageError, match="GOOGLE_CLOUD_PROJECT"):
        open_gcs(parse_source("gs://"), gcs_settings("http://127.0.0.1:1"))
