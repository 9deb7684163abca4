"""A large blob: its blocks side by side, each with its MD5, and one conditional commit.

https://learn.microsoft.com/rest/api/storageservices/put-block-list
"""

import base64
import hashlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from mountd.errors import Unreachable, Unsupported, VersionChanged
from mountd.remotes.azure_http import AzureHttp
from mountd.remotes.base import Body
from mountd.remotes.rest import RestAnswer
from mountd.remotes.side_by_side import SideBySide, unless_stopped, with_repeats

BLOCK_BYTES = 8 << 20
MAX_BLOCKS = 50_000
MAX_BLOB_BYTES = MAX_BLOCKS * (4000 << 20)
# Azure puts a long list together before it answers.
_COMMIT_S_PER_BLOCK = 0.002


@dataclass(frozen=True, slots=True)
class _Block:
    name: str
    start: int
    end: int


class AzureBlocks:
    """Uploads in blocks. Thread-safe.

    Nothing is seen before the commit, so a block that fails is sent again; the commit is sent
    once. Blocks that are never committed go after a week, and Azure has no request to end them.
    """

    def __init__(self, http: AzureHttp) -> None:
        self._http = http
        self._threads = SideBySide("azure-blocks")

    def put(self, key: str, body: Body, headers: Mapping[str, str], is_bound: bool) -> RestAnswer:
        """The good answer of the commit, which `headers` (condition, metadata) go with.

        `is_bound`: they hold a condition.
        """
        blocks = _blocks(body.size)

        def stage(block: _Block, stop: threading.Event) -> None:
            data = memoryview(body.read(block.start, block.end)).cast("B")
            md5 = hashlib.md5(data, usedforsecurity=False).digest()
            with_repeats(lambda: self._stage(key, block, data, md5, stop), stop)

        self._threads.run(blocks, stage)
        named = "".join(f"<Uncommitted>{block.name}</Uncommitted>" for block in blocks)
        text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{named}</BlockList>'
        answer = self._http.send(
            "PUT",
            key,
            {"comp": "blocklist"},
            headers,
            body=text.encode(),
            timeout_s=self._http.timeout_s + len(blocks) * _COMMIT_S_PER_BLOCK,
        )
        if answer.status == 201:
            return answer
        if answer.header("x-ms-error-code") == "InvalidBlockList":
            # Whoever writes the blob drops everybody's blocks.
            text = f"{self._http.what(key)}: somebody else wrote it meanwhile"
            raise VersionChanged(text) if is_bound else Unreachable(text, answered=True)
        raise self._http.error(answer, key)

    def close(self) -> None:
        self._threads.close()

    def _stage(
        self, key: str, block: _Block, data: memoryview, md5: bytes, stop: threading.Event
    ) -> None:
        answer = self._http.send(
            "PUT",
            key,
            {"comp": "block", "blockid": block.name},
            {"Content-MD5": base64.b64encode(md5).decode()},
            body=unless_stopped(data, stop),
        )
        if answer.status != 201:
            raise self._http.error(answer, key)


def _blocks(size: int) -> list[_Block]:
    """Blocks of `BLOCK_BYTES`, or larger where there would be too many of them.

    Their names are of this upload alone: two who write one blob at once stage into one place, and
    neither must commit the other's bytes. All names of a blob have one length, as Azure asks.
    """
    if size > MAX_BLOB_BYTES:
        raise Unsupported(f"{size} bytes are more than a blob can have")
    length = max(BLOCK_BYTES, -(-size // MAX_BLOCKS))
    upload = secrets.token_bytes(12)
    return [
        _Block(_name(upload, number), start, min(start + length, size))
        for number, start in enumerate(range(0, size, length))
    ]


def _name(upload: bytes, number: int) -> str:
    return base64.b64encode(upload + number.to_bytes(6, "big")).decode()
