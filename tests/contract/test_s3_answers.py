"""Answers to a ranged GET that contradict themselves, on a server that says anything at all."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mountd.errors import Corrupt, RemoteError, Unreachable, VersionChanged
from mountd.remotes.base import RemoteStore
from mountd.remotes.s3 import open_s3
from tests.contract.targets_s3 import S3Login, s3_settings, s3_source

pytestmark = pytest.mark.server
TAG = '"v1"'


@dataclass(slots=True)
class Said:
    """What every GET is answered with."""

    status: int = 206
    body: bytes = b"2345"
    headers: dict[str, str] = field(default_factory=dict)
    port: int = 0


@pytest.fixture
def said() -> Iterator[Said]:
    said = Said()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(said.status)
            for name, text in (said.headers | {"Content-Length": str(len(said.body))}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(said.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    said.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield said
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def store(said: Said) -> Iterator[RemoteStore]:
    login = S3Login(f"http://127.0.0.1:{said.port}", "key", "secret")
    store = open_s3(s3_source("bucket", ""), s3_settings(login, timeout_s=5.0))
    yield store
    store.close()


CASES: list[tuple[str, bytes, dict[str, str], type[RemoteError]]] = [
    ("fewer bytes than the range says", b"234", {"Content-Range": "bytes 2-5/10"}, Unreachable),
    ("more bytes than the range says", b"23456", {"Content-Range": "bytes 2-5/10"}, Unreachable),
    ("another start", b"0123", {"Content-Range": "bytes 0-3/10"}, Corrupt),
    ("a range that goes on", b"23456", {"Content-Range": "bytes 2-6/10"}, Corrupt),
    ("a smaller object", b"23", {"Content-Range": "bytes 2-3/4"}, VersionChanged),
    ("another version", b"2345", {"Content-Range": "bytes 2-5/10", "ETag": '"2"'}, VersionChanged),
    ("no version", b"2345", {"Content-Range": "bytes 2-5/10", "ETag": ""}, Corrupt),
    ("a range in other units", b"2345", {"Content-Range": "lines 2-5/10"}, Corrupt),
    ("no range", b"2345", {}, Corrupt),
]


# The second key is one that obstore can't say, so our own request reads it.
@pytest.mark.parametrize("key", ["d/data", "d//odd"])
@pytest.mark.parametrize(
    ("body", "headers", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_an_answer_that_contradicts_itself_is_never_data(
    said: Said,
    store: RemoteStore,
    key: str,
    body: bytes,
    headers: dict[str, str],
    expected: type[RemoteError],
) -> None:
    said.headers = {"ETag": TAG} | {"Content-Range": "bytes 2-5/10"}
    assert bytes(memoryview(store.read(key, 2, 6, TAG))) == b"2345"
    said.body, said.headers = body, {"ETag": TAG} | headers
    with pytest.raises(RemoteError) as caught:
        store.read(key, 2, 6, TAG)
    assert type(caught.value) is expected
