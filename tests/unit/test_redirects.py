"""A server that sends us elsewhere: no credentials go there, and nothing from https to http."""

import base64
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import pytest

from mountd.config import Settings
from mountd.config.source import Source, parse_source
from mountd.errors import RemoteError
from mountd.remotes.base import RemoteStore, Upload
from mountd.remotes.gcs import store_of
from mountd.remotes.gcs_credentials import BearerToken, GcsAccess
from mountd.remotes.registry import open_store
from mountd.remotes.tls import Tls
from tests.fakes.body import BytesBody
from tests.servers.tls_front import running_tls_front

SECRET = "c2VjcmV0LXNlY3JldA=="
OPENERS: dict[str, Callable[[str], RemoteStore]] = {}


def opener(make: Callable[[str], RemoteStore]) -> Callable[[str], RemoteStore]:
    OPENERS[make.__name__] = make
    return make


def opened(source: str, endpoint: str, **credentials: str) -> RemoteStore:
    given = MappingProxyType(credentials)
    settings = Settings(Path("/c"), endpoint=endpoint, request_timeout_s=5, credentials=given)
    return open_store(parse_source(source), settings)


@opener
def s3_keys(endpoint: str) -> RemoteStore:
    return opened("s3://b", endpoint, access_key_id="AK", secret_access_key=SECRET)


@opener
def s3_session_token(endpoint: str) -> RemoteStore:
    keys = {"access_key_id": "AK", "secret_access_key": "SK", "session_token": SECRET}
    return opened("s3://b", endpoint, **keys)


@opener
def azure_key(endpoint: str) -> RemoteStore:
    return opened("az://b", endpoint, account_name="acc", account_key=SECRET)


@opener
def azure_sas(endpoint: str) -> RemoteStore:
    sas = f"sv=2021-12-02&sig={SECRET.rstrip('=')}"
    return opened("az://b", endpoint, account_name="acc", sas_token=sas)


@opener
def azure_token(endpoint: str) -> RemoteStore:
    return opened("az://b", endpoint, account_name="acc", token=SECRET)


@opener
def gcs_token(endpoint: str) -> RemoteStore:
    access = GcsAccess(endpoint, BearerToken(SECRET), "", has_xml_api=True)
    return store_of(access, Source("gs", "b", "", ""), 5.0)


@opener
def webdav(endpoint: str) -> RemoteStore:
    return opened("webdav://host/", endpoint, user="u", password=SECRET)


@opener
def webdav_token(endpoint: str) -> RemoteStore:
    return opened("webdav://host/", endpoint, token=SECRET)


@opener
def nextcloud(endpoint: str) -> RemoteStore:
    return opened("nextcloud://host/", endpoint, user="u", password=SECRET)


class _Server(http.server.ThreadingHTTPServer):
    """Keeps what it hears as text; `location` (with a %s for the path) is where it sends all."""

    daemon_threads = True

    def __init__(self, status: int = 200, location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.location = status, location
        self.heard: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._answer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.heard.append(f"{self.command} {self.path}\n{self.headers}\n{body!r}")
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location % self.path)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(server: _Server) -> Iterator[_Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(store: RemoteStore) -> None:
    for ask in (
        lambda: store.stat("k"),
        lambda: list(store.list("")),
        lambda: store.read("k", 0, 4, '"e"'),
        lambda: store.put("k", BytesBody(b"of ours"), None, Upload()),
        lambda: store.delete("k", None),
    ):
        with suppress(RemoteError):
            ask()
    store.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", OPENERS)
def test_credentials_and_bytes_are_never_sent_to_where_a_redirect_leads(
    kind: str, status: int
) -> None:
    with (
        serving(_Server()) as elsewhere,
        serving(_Server(status, f"http://localhost:{elsewhere.server_port}%s")) as asked,
    ):
        use(OPENERS[kind](f"http://127.0.0.1:{asked.server_port}"))
        assert any(secret_in(one) or "uthorization" in one for one in asked.heard)
        for heard in elsewhere.heard:
            assert not secret_in(heard), heard
            assert "uthorization" not in heard
            assert "of ours" not in heard


def secret_in(heard: str) -> bool:
    pair = base64.b64encode(f"u:{SECRET}".encode()).decode()
    return SECRET.rstrip("=") in heard or pair in heard


@pytest.mark.parametrize("kind", ["gcs_token", "s3_keys"])
def test_a_redirect_never_leads_from_https_to_http(kind: str, tmp_path: Path) -> None:
    """At the very host: what it says is no longer the server's."""
    with serving(_Server()) as plain, serving(_Server(307, "")) as asked:
        asked.location = f"http://127.0.0.1:{plain.server_port}%s"
        with running_tls_front(tmp_path, asked.server_port) as front:
            if kind == "gcs_token":
                tls = Tls(front.ca_file.read_text())
                access = GcsAccess(front.origin, BearerToken(SECRET), "", True, tls)
                store = store_of(access, Source("gs", "b", "", ""), 5.0)
            else:
                keys = {"access_key_id": "AK", "secret_access_key": SECRET}
                settings = Settings(
                    cache_dir=Path("/c"),
                    endpoint=front.origin,
                    request_timeout_s=5,
                    credentials=MappingProxyType(keys),
                    ca_file=front.ca_file,
                )
                store = open_store(parse_source("s3://b"), settings)
            use(store)
        assert asked.heard
        assert plain.heard == []
