"""Blobs in blocks that broke off, and what the next try sends."""

import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from typing_extensions import Buffer

from mountd.errors import VersionChanged
from mountd.remotes.azure_blocks import BLOCK_BYTES, uncommitted_in
from mountd.remotes.azure_credentials import AzureAccount
from mountd.remotes.azure_http import AzureHttp
from mountd.remotes.azure_write import AzureWrites
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import MAX_BODY_BYTES, RestAnswer
from tests.fakes.body import BytesBody
from tests.servers.azurite import ACCOUNT, ACCOUNT_KEY, Azurite, running_azurite

pytestmark = pytest.mark.server

DATA = random.Random(0).randbytes(2 * BLOCK_BYTES + 1)
SOON_S = 20.0


class CountingHttp(AzureHttp):
    """Notes the blocks that are put."""

    def __init__(self, endpoint: str, container: str) -> None:
        super().__init__(AzureAccount(ACCOUNT, endpoint, key=ACCOUNT_KEY), container, 5.0)
        self.blocks: list[str] = []

    def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        *,
        body: Buffer | SentBody = b"",
        timeout_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> RestAnswer:
        if query.get("comp") == "block":
            self.blocks.append(query["blockid"])
        return super().send(
            *(method, key, query, headers),
            body=body,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
        )


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with tempfile.TemporaryDirectory() as name, running_azurite(Path(name)) as azurite:
        yield azurite


@contextmanager
def writing(azurite: Azurite) -> Iterator[tuple[AzureWrites, CountingHttp]]:
    http = CountingHttp(azurite.endpoint, azurite.container)
    writes = AzureWrites(http)
    try:
        yield writes, http
    finally:
        writes.close()
        http.close()


def broken_off(azurite: Azurite, key: str) -> str:
    """The token of an upload of DATA that lacks the last block."""
    tokens: list[str] = []

    def before_read(start: int, end: int) -> None:
        until_s = time.monotonic() + SOON_S
        while end == len(DATA):
            if len(staged(azurite, key)) == 2:
                raise OSError("the disk fails")
            assert time.monotonic() < until_s

    upload = Upload("the-id", progress=tokens.append)
    with writing(azurite) as (writes, _), pytest.raises(OSError, match="the disk fails"):
        writes.put(key, BytesBody(DATA, before_read), ABSENT, upload)
    assert len(tokens) == 1
    return tokens[0]


def staged(azurite: Azurite, key: str) -> Mapping[str, int]:
    http = CountingHttp(azurite.endpoint, azurite.container)
    try:
        query = {"comp": "blocklist", "blocklisttype": "uncommitted"}
        answer = http.send("GET", key, query, {})
        return uncommitted_in(answer.body) if answer.status == 200 else {}
    finally:
        http.close()


def content(azurite: Azurite, key: str) -> bytes:
    container = azurite.service.get_container_client(azurite.container)
    data: bytes = container.download_blob(key).readall()
    return data


def test_only_the_missing_blocks_are_sent(azurite: Azurite) -> None:
    key = uuid4().hex
    tokens = [broken_off(azurite, key)]
    with writing(azurite) as (writes, http):
        upload = Upload("the-id", resume=tokens[0], progress=tokens.append)
        writes.put(key, BytesBody(DATA), ABSENT, upload)
        assert len(http.blocks) == 1
        assert writes.identify(key).upload_id == "the-id"
    assert tokens == [tokens[0], tokens[0], ""]
    assert content(azurite, key) == DATA


def test_a_block_that_is_not_what_is_staged_is_sent_again(azurite: Azurite) -> None:
    key = uuid4().hex
    other = b"x" + DATA[1:]
    upload = Upload("the-id", resume=broken_off(azurite, key))
    with writing(azurite) as (writes, http):
        writes.put(key, BytesBody(other), ABSENT, upload)
        assert len(http.blocks) == 2
    assert content(azurite, key) == other


def test_blocks_that_are_gone_are_sent_again(azurite: Azurite) -> None:
    key = uuid4().hex
    # Azurite keeps blocks whatever is written: here none of this upload were ever there.
    tokens = ["azure-blocks " + "00" * 12]
    with writing(azurite) as (writes, http):
        upload = Upload("the-id", resume=tokens[0], progress=tokens.append)
        writes.put(key, BytesBody(DATA), ABSENT, upload)
        assert len(http.blocks) == 3
    assert tokens[-1] == ""
    assert content(azurite, key) == DATA


def test_a_blob_that_came_meanwhile_is_not_overwritten(azurite: Azurite) -> None:
    key = uuid4().hex
    tokens = [broken_off(azurite, key)]
    with writing(azurite) as (writes, _):
        writes.put(key, BytesBody(b"theirs"), None, Upload())
        upload = replace(Upload("the-id"), resume=tokens[0], progress=tokens.append)
        with pytest.raises(VersionChanged):
            writes.put(key, BytesBody(DATA), ABSENT, upload)
    assert tokens[-1] == ""
    assert content(azurite, key) == b"theirs"


@pytest.mark.parametrize("token", ["", "azure-blocks ", "azure-blocks xyz", "s3-parts 00"])
def test_a_token_of_something_else_does_no_harm(azurite: Azurite, token: str) -> None:
    key = uuid4().hex
    with writing(azurite) as (writes, http):
        writes.put(key, BytesBody(DATA), ABSENT, Upload("the-id", resume=token))
        assert len(http.blocks) == 3
