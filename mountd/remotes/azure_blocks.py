"""A large blob: its blocks side by side, each with its MD5, and one conditional commit.

https://learn.microsoft.com/rest/api/storageservices/put-block-list
"""

import base64
import contextlib
import hashlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mountd.errors import Corrupt, Throttled, Unreachable, Unsupported, VersionChanged
from mountd.remotes.azure_http import AzureHttp
from mountd.remotes.base import Body, Upload
from mountd.remotes.rest import RestAnswer
from mountd.remotes.side_by_side import SideBySide, unless_stopped, with_repeats
from mountd.remotes.untrusted import size_in
from mountd.remotes.upload_tokens import may_go_on, tell
from mountd.remotes.xml_pages import children, parse_xml, texts

BLOCK_BYTES = 8 << 20
MAX_BLOCKS = 50_000
MAX_BLOB_BYTES = MAX_BLOCKS * (4000 << 20)
# Azure puts a long list together before it answers.
_COMMIT_S_PER_BLOCK = 0.002


_LEAD = "azure-blocks "
_UPLOAD_BYTES = 12
_NAME_BYTES = 18


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    start: int
    end: int


class AzureBlocks:
    """Uploads in blocks. Thread-safe.

    Nothing is seen before the commit, so a block that fails is sent again; the commit is sent
    once. Blocks that are never committed go after a week, and Azure has no request to end them.
    An upload that broke off is gone on with (`base.Upload`): a block's name is made of its MD5,
    which Azure has compared when it came, so what is there under its name is not sent again.
    """

    def __init__(self, http: AzureHttp) -> None:
        self._http = http
        self._threads = SideBySide("azure-blocks")

    def put(
        self, key: str, body: Body, headers: Mapping[str, str], upload: Upload, is_bound: bool
    ) -> RestAnswer:
        """The good answer of the commit, which `headers` (condition, metadata) go with.

        `is_bound`: they hold a condition.
        """
        blocks = _blocks(body.size)
        before = _seed_in(upload.resume)
        there = self._there(key) if before else {}
        seed = before or secrets.token_bytes(_UPLOAD_BYTES)
        tell(upload, _LEAD + seed.hex())

        def stage(block: _Block, stop: threading.Event) -> str:
            data = memoryview(body.read(block.start, block.end)).cast("B")
            md5 = hashlib.md5(data, usedforsecurity=False).digest()
            name = _name(seed, block.number, md5)
            if there.get(name) != len(data):
                with_repeats(lambda: self._stage(key, name, data, md5, stop), stop)
            return name

        try:
            answer = self._commit(key, self._threads.run(blocks, stage), headers, is_bound)
        except BaseException as error:
            if not may_go_on(error):
                tell(upload, "")
            raise
        tell(upload, "")
        return answer

    def close(self) -> None:
        self._threads.close()

    def _there(self, key: str) -> dict[str, int]:
        """Sizes of the blocks that are staged, by name. Whoever may not ask sends all of them."""
        query = {"comp": "blocklist", "blocklisttype": "uncommitted"}
        answer = self._http.send("GET", key, query, {})
        if answer.status != 200:
            error = self._http.error(answer, key)
            if isinstance(error, (Unreachable, Throttled)):
                raise error
            return {}
        try:
            return uncommitted_in(answer.body)
        except Corrupt:
            return {}

    def _commit(
        self, key: str, names: Sequence[str], headers: Mapping[str, str], is_bound: bool
    ) -> RestAnswer:
        named = "".join(f"<Uncommitted>{name}</Uncommitted>" for name in names)
        text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{named}</BlockList>'
        answer = self._http.send(
            "PUT",
            key,
            {"comp": "blocklist"},
            headers,
            body=text.encode(),
            timeout_s=self._http.timeout_s + len(names) * _COMMIT_S_PER_BLOCK,
        )
        if answer.status == 201:
            return answer
        if answer.header("x-ms-error-code") == "InvalidBlockList":
            # Whoever writes the blob drops everybody's blocks.
            text = f"{self._http.what(key)}: somebody else wrote it meanwhile"
            raise VersionChanged(text) if is_bound else Unreachable(text, answered=True)
        raise self._http.error(answer, key)

    def _stage(
        self, key: str, name: str, data: memoryview, md5: bytes, stop: threading.Event
    ) -> None:
        answer = self._http.send(
            "PUT",
            key,
            {"comp": "block", "blockid": name},
            {"Content-MD5": base64.b64encode(md5).decode()},
            body=unless_stopped(data, stop),
        )
        if answer.status != 201:
            raise self._http.error(answer, key)


def uncommitted_in(body: bytes) -> dict[str, int]:
    """Sizes by name in an answer to Get Block List; what can't be read is left out."""
    found: dict[str, int] = {}
    for tag, listed in children(parse_xml(body)):
        rows = [texts(block) for _, block in children(listed)] if tag == "UncommittedBlocks" else []
        for row in rows:
            with contextlib.suppress(ValueError):
                found[row.get("Name", "")] = size_in(row.get("Size", ""))
    return found


def _blocks(size: int) -> list[_Block]:
    """Blocks of `BLOCK_BYTES`, or larger where there would be too many of them."""
    if size > MAX_BLOB_BYTES:
        raise Unsupported(f"{size} bytes are more than a blob can have")
    length = max(BLOCK_BYTES, -(-size // MAX_BLOCKS))
    return [
        _Block(number, start, min(start + length, size))
        for number, start in enumerate(range(0, size, length))
    ]


def _name(seed: bytes, number: int, md5: bytes) -> str:
    """Of this upload alone (`seed`): two who write one blob at once stage into one place, and
    neither must commit the other's bytes. All names of a blob have one length, as Azure asks."""
    digest = hashlib.sha256(seed + number.to_bytes(6, "big") + md5).digest()
    return base64.b64encode(digest[:_NAME_BYTES]).decode()


def _seed_in(token: str) -> bytes:
    """Of an upload's token; nothing for a token of something else."""
    try:
        seed = bytes.fromhex(token.removeprefix(_LEAD)) if token.startswith(_LEAD) else b""
    except ValueError:
        return b""
    return seed if len(seed) == _UPLOAD_BYTES else b""
