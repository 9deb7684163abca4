"""Writes to Azure Blob: what azurite enforces, and answers that it never gives."""

import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.azure import open_azure
from mountd.remotes.azure_blocks import BLOCK_BYTES
from mountd.remotes.azure_credentials import AzureAccount
from mountd.remotes.azure_http import AzureHttp
from mountd.remotes.azure_write import AzureWrites
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.remotes.rest import RestClient
from tests.contract.targets_azure import azure_settings, azure_source
from tests.contract.writing import MTIME_NS, NOTHING, content, names, write
from tests.fakes.body import BytesBody
from tests.servers.azurite import ACCOUNT, ACCOUNT_KEY, Azurite, running_azurite
from tests.servers.raw_http import RawServer, Step, answer, raw_http

pytestmark = pytest.mark.server

LARGE = random.Random(0).randbytes(2 * BLOCK_BYTES + 1)
SOON_S = 20.0


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with tempfile.TemporaryDirectory() as name, running_azurite(Path(name)) as azurite:
        yield azurite


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


@pytest.fixture
def store(azurite: Azurite, prefix: str) -> Iterator[RemoteStore]:
    settings = azure_settings(azurite.endpoint, account_key=ACCOUNT_KEY)
    store = open_azure(azure_source(azurite.container, prefix), settings)
    yield store
    store.close()


@contextmanager
def writes(endpoint: str, container: str) -> Iterator[AzureWrites]:
    http = AzureHttp(AzureAccount(ACCOUNT, endpoint, key=ACCOUNT_KEY), container, 5.0)
    writes = AzureWrites(http, one_step_copy_bytes=1)
    try:
        yield writes
    finally:
        writes.close()
        http.close()


# On azurite


def test_a_large_file_of_blocks_arrives_whole_and_as_one(
    azurite: Azurite, store: RemoteStore, prefix: str
) -> None:
    made = write(store, "large.png", LARGE, ABSENT, Upload("the-id", MTIME_NS, {"mode": "33188"}))
    assert content(store, "large.png") == LARGE
    found = store.identify("large.png")
    assert (found.entry, found.upload_id) == (made, "the-id")
    client = azurite.service.get_blob_client(azurite.container, f"{prefix}/large.png")
    properties = client.get_blob_properties()
    assert properties.content_settings.content_type == "image/png"
    assert properties.metadata["mode"] == "33188"
    sizes = [block.size for block in client.get_block_list()[0]]
    assert sizes == [BLOCK_BYTES, BLOCK_BYTES, 1]


def test_a_large_file_is_committed_under_its_condition(store: RemoteStore) -> None:
    version = write(store, "file", b"before").version

    def meanwhile(start: int, end: int) -> None:
        if end == len(LARGE):
            write(store, "file", b"theirs, meanwhile", version)

    with pytest.raises(VersionChanged):
        store.put("file", BytesBody(LARGE, meanwhile), version, NOTHING)
    assert content(store, "file") == b"theirs, meanwhile"
    with pytest.raises(VersionChanged):
        write(store, "file", LARGE, ABSENT)


def test_two_who_write_blocks_of_one_blob_never_mix_them(store: RemoteStore) -> None:
    other = bytes(reversed(LARGE))
    both = threading.Barrier(2)
    won: list[bytes] = []

    def put(data: bytes) -> None:
        def wait_once(start: int, end: int) -> None:
            if start == 0:
                both.wait(SOON_S)

        try:
            store.put("file", BytesBody(data, wait_once), ABSENT, NOTHING)
            won.append(data)
        except VersionChanged:
            pass

    threads = [threading.Thread(target=put, args=(data,)) for data in (LARGE, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert won == [content(store, "file")]


def test_a_body_that_fails_in_a_late_block_leaves_nothing(store: RemoteStore) -> None:
    error = Unreachable("the base can't be read now")

    def fail(start: int, end: int) -> None:
        if end == len(LARGE):
            raise error

    with pytest.raises(Unreachable) as raised:
        store.put("file", BytesBody(LARGE, fail), ABSENT, NOTHING)
    assert raised.value is error
    assert names(store) == []


def test_a_leased_blob_is_locked(azurite: Azurite, store: RemoteStore, prefix: str) -> None:
    version = write(store, "file", b"1").version
    client = azurite.service.get_blob_client(azurite.container, f"{prefix}/file")
    lease = client.acquire_lease(15)
    for change in (
        lambda: write(store, "file", b"2", version),
        lambda: write(store, "file", LARGE, version),
        lambda: store.delete("file", version),
    ):
        with pytest.raises(Locked):
            change()
    lease.release()
    write(store, "file", b"2", version)


def test_attribute_names_that_azure_does_not_take_are_written_otherwise(
    azurite: Azurite, store: RemoteStore, prefix: str
) -> None:
    # Digits and underscores: Azure sorts them in its own way when it checks a signature.
    attributes = {"user.Name-1": "a", "user_name": "b", "username": "c", "9": "d", "a1": "e"}
    write(store, "file", b"1", ABSENT, Upload("the-id", 0, {**attributes, "a_": "f", "a": "g"}))
    client = azurite.service.get_blob_client(azurite.container, f"{prefix}/file")
    metadata = client.get_blob_properties().metadata
    assert metadata["mountd_upload"] == "the-id"
    assert metadata["user__2e__4eame_1"] == "a"
    assert len(metadata) == 8


def test_azure_itself_may_read_the_source_of_a_copy(azurite: Azurite, store: RemoteStore) -> None:
    account = AzureAccount(ACCOUNT, azurite.endpoint, key=ACCOUNT_KEY)
    name = f"a b/\u00fc%41-{uuid4().hex}"
    azurite.service.get_blob_client(azurite.container, name).upload_blob(b"source")
    http = AzureHttp(account, azurite.container, 5.0)
    url = http.url_of(name, account.read_sas(azurite.container, name))
    client = RestClient(azurite.endpoint.removesuffix(f"/{ACCOUNT}"), 5.0)
    target = url[url.index(f"/{ACCOUNT}") :]
    assert client.send("GET", target, {}).body == b"source"
    assert client.send("GET", target.replace("&sig=", "&sig=A"), {}).status == 403
    client.close()
    http.close()


def test_a_sas_is_enough_to_write_and_copy(azurite: Azurite, prefix: str) -> None:
    sas = generate_account_sas(
        ACCOUNT,
        ACCOUNT_KEY,
        ResourceTypes(container=True, object=True),
        AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True),
        datetime.now(UTC) + timedelta(hours=1),
    )
    store = open_azure(
        azure_source(azurite.container, prefix), azure_settings(azurite.endpoint, sas_token=sas)
    )
    version = write(store, "file", b"1", ABSENT, Upload("the-id")).version
    store.copy("file", version, "copied", ABSENT, NOTHING)
    write(store, "large", LARGE)
    store.delete("file", version)
    assert names(store) == ["copied", "large"]
    store.close()


def test_a_large_blob_is_copied_in_two_steps(azurite: Azurite, prefix: str) -> None:
    with writes(azurite.endpoint, azurite.container) as azure:
        key, copied = f"{prefix}/source", f"{prefix}/copied"
        upload = Upload("the-id", MTIME_NS)
        version = azure.put(key, BytesBody(b"some bytes"), ABSENT, upload).version
        made = azure.copy(key, version, copied, ABSENT, Upload("copied"))
        assert azure.identify(copied).object == made
        assert azure.identify(copied).upload_id == "copied"
        for expect, source in ((ABSENT, version), (made.version, '"0xANOTHER"')):
            with pytest.raises(VersionChanged):
                azure.copy(key, source, copied, expect, NOTHING)


def test_a_copy_without_metadata_of_its_own_has_the_mtime_of_its_source(
    store: RemoteStore,
) -> None:
    version = write(store, "source", b"1", ABSENT, Upload("the-id", MTIME_NS)).version
    made = store.copy("source", version, "copied", ABSENT, NOTHING)
    assert made == store.stat("copied")
    assert made.mtime_ns == MTIME_NS


@pytest.mark.parametrize("name", ["back\\slash", "a/../b", ".", "\udcff", "a/" * 254 + "b"])
def test_a_name_that_azure_would_change_is_not_sent(store: RemoteStore, name: str) -> None:
    with pytest.raises(NameNotAllowed):
        write(store, name, b"1")


def test_a_file_that_should_not_be_there_is_not_deleted(store: RemoteStore) -> None:
    write(store, "file", b"1")
    with pytest.raises(VersionChanged):
        store.delete("file", ABSENT)
    with pytest.raises(NotFound):
        store.delete("missing", ABSENT)
    assert names(store) == ["file"]


# Answers that azurite doesn't give

COPIED = {"ETag": '"2"', "x-ms-copy-id": "c", "x-ms-copy-status": "pending"}
HEAD = {"ETag": '"1"', "Last-Modified": "Sat, 31 Jan 2026 10:15:00 GMT"}


@contextmanager
def scripted(*script: Step) -> Iterator[tuple[AzureWrites, RawServer]]:
    with raw_http(*script) as server, writes(f"http://{server.authority}/{ACCOUNT}", "c") as azure:
        yield azure, server


def failed(status: int, code: str) -> Step:
    return answer(status, b"", {"x-ms-error-code": code})


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "Md5Mismatch", Corrupt),
        (400, "InvalidUri", NameNotAllowed),
        (403, "AuthorizationPermissionMismatch", Denied),
        (404, "ContainerNotFound", ContainerMissing),
        (409, "BlobAlreadyExists", VersionChanged),
        (409, "BlobImmutableDueToPolicy", Denied),
        (409, "PendingCopyOperation", Locked),
        (409, "AccountQuotaExceeded", QuotaExceeded),
        (412, "ConditionNotMet", VersionChanged),
        (412, "LeaseIdMissing", Locked),
        (500, "InternalError", Unreachable),
        (503, "ServerBusy", Throttled),
        (507, "", QuotaExceeded),
    ],
)
def test_a_refusal_is_told_by_its_code(status: int, code: str, expected: type[RemoteError]) -> None:
    with scripted(failed(status, code)) as (azure, server):
        with pytest.raises(expected):
            azure.put("file", BytesBody(b"1"), ABSENT, NOTHING)
        assert len(server.requests) == 1


def test_a_block_is_sent_again_and_a_commit_is_not() -> None:
    data = bytes(BLOCK_BYTES + 1)
    staged, busy = answer(201), failed(503, "ServerBusy")
    with scripted(busy, staged, staged, failed(500, "InternalError")) as (azure, server):
        with pytest.raises(Unreachable):
            azure.put("file", BytesBody(data), ABSENT, NOTHING)
        asked = [request.target.partition("?")[2].partition("&")[0] for request in server.requests]
        assert asked == ["comp=block"] * 3 + ["comp=blocklist"]
        assert server.requests[-1].headers["if-none-match"] == "*"


@pytest.mark.parametrize(("expect", "error"), [(ABSENT, VersionChanged), (None, Unreachable)])
def test_blocks_that_somebody_elses_write_dropped_are_a_change(
    expect: str | None, error: type[RemoteError]
) -> None:
    staged = answer(201)
    script = (staged, staged, failed(400, "InvalidBlockList"))
    with scripted(*script) as (azure, _), pytest.raises(error):
        azure.put("file", BytesBody(bytes(BLOCK_BYTES + 1)), expect, NOTHING)


def test_a_copy_that_takes_its_time_is_waited_for() -> None:
    found = answer(200, b"", {**HEAD, "Content-Length": "0"})
    pending = answer(200, b"", {**COPIED, "Content-Length": "0"})
    done = answer(200, b"", {**COPIED, "ETag": '"3"', "x-ms-copy-status": "success"})
    with scripted(found, answer(202, b"", COPIED), pending, done) as (azure, server):
        made = azure.copy("source", '"1"', "key", ABSENT, Upload("the-id", MTIME_NS))
        assert (made.version, made.mtime_ns) == ('"3"', MTIME_NS)
        assert [request.method for request in server.requests] == ["HEAD", "PUT", "HEAD", "HEAD"]
        asked = server.requests[1].headers
        assert (asked["x-ms-source-if-match"], asked["if-none-match"]) == ('"1"', "*")


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ({"x-ms-copy-status": "failed"}, Unreachable),
        ({"x-ms-copy-id": "another", "x-ms-copy-status": "success"}, VersionChanged),
    ],
)
def test_a_copy_that_does_not_end_well_is_no_success(
    last: dict[str, str], error: type[RemoteError]
) -> None:
    script = (answer(200, b"", HEAD), answer(202, b"", COPIED), answer(200, b"", COPIED | last))
    with scripted(*script) as (azure, _), pytest.raises(error):
        azure.copy("source", '"1"', "key", ABSENT, NOTHING)


def test_a_copy_that_is_not_done_is_not_ours_yet() -> None:
    head = HEAD | COPIED | {"x-ms-meta-mountd_upload": "the-id"}
    done = head | {"x-ms-copy-status": "success"}
    with scripted(answer(200, b"", head), answer(200, b"", done)) as (azure, _):
        assert azure.identify("key").upload_id == ""
        assert azure.identify("key").upload_id == "the-id"


def test_a_delete_that_is_not_allowed_says_whether_there_is_anything() -> None:
    changed, gone = failed(412, "ConditionNotMet"), failed(404, "BlobNotFound")
    with scripted(changed, gone) as (azure, _), pytest.raises(NotFound):
        azure.delete("key", '"1"')
    with scripted(changed, answer(200, b"", HEAD)) as (azure, _), pytest.raises(VersionChanged):
        azure.delete("key", '"1"')
