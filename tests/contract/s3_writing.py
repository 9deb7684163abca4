"""What the tests of S3's writes on the scriptable server share."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from mountd.errors import RemoteError
from mountd.remotes.base import RemoteStore, Upload
from mountd.remotes.s3 import open_s3
from mountd.remotes.s3_probe import Proven
from tests.contract.targets_s3 import S3Login, s3_settings, s3_source
from tests.contract.writing import MTIME_NS
from tests.servers.raw_s3 import raw_client
from tests.servers.s3.launch import S3Server

BUCKET = "b"
MIB = 1 << 20
LARGE = bytes(range(256)) * (40 * MIB // 256)  # three parts
OTHER = '"0123456789abcdef0123456789abcdef"'
UPLOAD = Upload("upload-1", MTIME_NS, {"mode": "33188"})
MakeStore = Callable[..., RemoteStore]


class Memory:
    def __init__(self) -> None:
        self.kept: dict[str, Proven] = {}

    def recall(self, place: str) -> Proven | None:
        return self.kept.get(place)

    def keep(self, place: str, proven: Proven) -> None:
        self.kept[place] = proven


@contextmanager
def opening(server: S3Server) -> Iterator[MakeStore]:
    """Opens stores of the prefix `p` in an empty bucket, and closes them at the end."""
    server.make_bucket(BUCKET)
    opened: list[RemoteStore] = []

    def make(memory: Memory | None = None, timeout_s: float = 10.0) -> RemoteStore:
        login = S3Login(server.endpoint, server.access_key, server.secret_key)
        settings = s3_settings(login, timeout_s)
        opened.append(open_s3(s3_source(BUCKET, "p"), settings, memory=memory))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def ops(server: S3Server) -> list[str]:
    return [entry.op for entry in server.log()]


def uploads_left(server: S3Server) -> bool:
    with closing(raw_client(server)) as raw:
        return b"<Upload>" in raw.request("GET", BUCKET, query={"uploads": ""}).body


def failure(call: Callable[[], object]) -> RemoteError:
    with pytest.raises(RemoteError) as raised:
        call()
    return raised.value
