"""The fsspec store over memory:// and over file systems that misbehave; errors and arguments."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import (
    ContainerMissing,
    Corrupt,
    CredentialsError,
    Denied,
    NotFound,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    Unsupported,
    UsageError,
    VersionChanged,
)
from mountd.remotes.base import RemoteStore
from mountd.remotes.bounded_call import call_bounded
from mountd.remotes.fsspec_engines import Engine, open_engine
from mountd.remotes.fsspec_errors import remote_error
from mountd.remotes.fsspec_store import FsspecStore, open_fsspec
from mountd.types import Kind
from tests.conftest import ExpectedLog
from tests.fakes.stopwatch import fastest_s


def settings(
    credentials: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    region: str | None = None,
) -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        engine="fsspec",
        endpoint=endpoint,
        region=region,
        credentials=credentials or {},
    )


class Misbehaving(MemoryFileSystem):  # type: ignore[misc]
    """A memory file system of its own with hooks for what a test wants to go wrong."""

    protocol = "misbehaving"
    cachable = False

    def __init__(self) -> None:
        super().__init__(global_store=False)
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.infos: list[dict[str, Any]] | None = None
        self.after_cat: tuple[str, bytes] | None = None
        self.cut_bytes = 0

    def info(self, path: str, **kwargs: Any) -> Any:
        self._go_wrong()
        return super().info(path, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._go_wrong()
        return super().ls(path, detail, **kwargs) if self.infos is None else self.infos

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> Any:
        self._go_wrong()
        data = super().cat_file(path, start, end, **kwargs)
        if self.after_cat:
            self.pipe_file(*self.after_cat)
        return data[: len(data) - self.cut_bytes]

    def _go_wrong(self) -> None:
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error


def store_over(fs: Any, timeout_s: float = 5.0, is_parallel: bool = True) -> FsspecStore:
    return FsspecStore(Engine(fs, "/root", "", True, False, is_parallel), timeout_s)


def listed(store: RemoteStore, directory: str = "") -> list[str]:
    return sorted(entry.name for page in store.list(directory) for entry in page)


def test_a_file_that_changes_during_the_read_is_never_a_mix() -> None:
    fs = Misbehaving()
    fs.pipe_file("/root/f", b"old")
    store = store_over(fs)
    version = store.stat("f").version
    fs.after_cat = ("/root/f", b"newer")
    with pytest.raises(VersionChanged):
        store.read("f", 0, 3, version)


def test_a_short_body_is_unreachable() -> None:
    fs = Misbehaving()
    fs.pipe_file("/root/f", b"hello")
    fs.cut_bytes = 1
    store = store_over(fs)
    with pytest.raises(Unreachable):
        store.read("f", 0, 5, store.stat("f").version)


@pytest.mark.parametrize("is_parallel", [True, False])
def test_a_call_that_hangs_is_unreachable_in_time_and_so_is_the_next(is_parallel: bool) -> None:
    fs = Misbehaving()
    fs.gate = threading.Event()
    store = store_over(fs, timeout_s=0.2, is_parallel=is_parallel)

    def hangs() -> None:
        for _ in range(2):
            with pytest.raises(Unreachable):
                store.stat("f")

    assert fastest_s(hangs, 3.0, tries=3) < 3.0
    fs.gate.set()


def test_an_engine_that_bears_no_threads_is_called_by_one_at_a_time() -> None:
    class Counting(Misbehaving):
        inside = 0
        most = 0

        def info(self, path: str, **kwargs: Any) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.002)  # long enough that unserialised calls would overlap
            self.inside -= 1
            return super().info(path, **kwargs)

    fs = Counting()
    fs.pipe_file("/root/f", b"x")
    store = store_over(fs, is_parallel=False)
    threads = [threading.Thread(target=store.stat, args=("f",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert fs.most == 1
    assert store.capabilities.max_parallel == 1


def test_names_that_fsspec_garbles_are_logged_not_hidden_silently(
    expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log("can't say 3 of its names")
    fs = Misbehaving()
    fs.infos = [
        {"name": "/root/d/good", "type": "file", "size": 1},
        {"name": "/root/d/good", "type": "file", "size": 1},
        {"name": "/root/d/", "type": "directory", "size": 0},
        {"name": "/root/d/deep/er", "type": "file", "size": 1},
        {"name": "/elsewhere/x", "type": "file", "size": 1},
    ]
    assert listed(store_over(fs), "d/") == ["good"]
    assert "can't say 3" in caplog.text


def test_a_listing_without_sizes_asks_for_each() -> None:
    fs = Misbehaving()
    fs.pipe_file("/root/d/f", b"hello")
    fs.infos = [{"name": "/root/d/f", "type": "file", "size": None}]
    (page,) = store_over(fs).list("d/")
    assert page[0].size == 5


class Botocore(Exception):
    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code)
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        }


class Azure(Exception):
    def __init__(self, status: int, error_code: str = "") -> None:
        super().__init__(error_code)
        self.status_code = status
        self.error_code = error_code


class Aiohttp(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("aiohttp")
        self.status = status


class Gcs(Exception):
    def __init__(self, code: object) -> None:
        super().__init__("gcs")
        self.code = code


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("f"), NotFound),
        (IsADirectoryError("f"), NotFound),
        (PermissionError("f"), Denied),
        (OSError("Forbidden: https://storage/b"), Denied),
        (NoCredentialsError("none"), Denied),
        (TimeoutError(), Unreachable),
        (ConnectionResetError(), Unreachable),
        (OSError(5, "Input/output error"), Unreachable),
        (EOFError(), Unreachable),
        (RuntimeError("what?"), Unreachable),
        (NotImplementedError(), Unsupported),
        (ValueError("bad bucket name"), Unsupported),
        (SyntaxError("not well-formed"), Corrupt),
        (Botocore(403, "AccessDenied"), Denied),
        (Botocore(404, "NoSuchKey"), NotFound),
        (Botocore(404, "NoSuchBucket"), ContainerMissing),
        (Botocore(503, "SlowDown"), Throttled),
        (Botocore(500, "InternalError"), Unreachable),
        (Botocore(416, "InvalidRange"), VersionChanged),
        (Azure(404, "BlobNotFound"), NotFound),
        (Azure(404, "ContainerNotFound"), ContainerMissing),
        (Azure(403), Denied),
        (Aiohttp(401), SignInRefused),
        (Aiohttp(429), Throttled),
        (Gcs(502), Unreachable),
        (Gcs("403"), Denied),
        (Gcs(None), Unreachable),
    ],
    ids=repr,
)
def test_what_engines_raise_has_a_meaning(error: Exception, expected: type[RemoteError]) -> None:
    assert type(remote_error("read 'f'", error)) is expected


def test_the_status_behind_a_translated_error_decides() -> None:
    translated = FileNotFoundError("f")
    translated.__cause__ = Botocore(403, "AccessDenied")
    assert type(remote_error("stat", translated)) is Denied
    busy = OSError(16, "busy")
    busy.__cause__ = Botocore(503, "SlowDown", {"retry-after": "3"})
    found = remote_error("stat", busy)
    assert isinstance(found, Throttled)
    assert found.retry_after_s == 3.0


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("size"), Aiohttp(500)])
def test_nothing_but_remote_errors_leaves_the_store(error: Exception) -> None:
    fs = Misbehaving()
    fs.error = error
    store = store_over(fs)
    for call in (lambda: store.stat("f"), lambda: listed(store), lambda: store.read("f", 0, 1, "")):
        with pytest.raises(RemoteError):
            call()


def test_a_bounded_call_hands_over_results_and_errors() -> None:
    assert call_bounded(lambda: 7, 5.0, "seven") == 7
    with pytest.raises(KeyError):
        call_bounded(lambda: dict[str, int]()["x"], 5.0, "none")


def test_keys_that_fsspec_would_take_apart_are_not_found() -> None:
    store = store_over(Misbehaving())
    for key in ("a//b", "../x", "a/./b", "/a"):
        with pytest.raises(NotFound):
            store.stat(key)


def test_memory_is_an_object_store_for_trying_out() -> None:
    fsspec.filesystem("memory").pipe_file("/try-out/d/f", b"hello")
    engine = open_engine(Source("memory", "", "try-out", "memory://try-out"), settings())
    store = FsspecStore(engine, 5.0)
    assert store.stat("d/").kind is Kind.DIRECTORY
    assert store.read("d/f", 1, 3, store.stat("d/f").version) == b"el"
    assert listed(store, "nothing/") == []
    assert listed(FsspecStore(Engine(engine.fs, "/none", "", False, False, True), 5.0)) == []


# How credentials, endpoint and region reach each package.


def engine_of(scheme: str, given: Settings, authority: str = "box") -> Engine:
    return open_engine(Source(scheme, authority, "p/q", f"{scheme}://box/p/q"), given)


def test_s3fs_arguments() -> None:
    keys = {"access_key_id": "K", "secret_access_key": "S", "session_token": "T"}
    engine = engine_of("s3", settings(keys, "http://127.0.0.1:9", "eu-west-1"))
    fs = engine.fs
    assert (fs.key, fs.secret, fs.token) == ("K", "S", "T")
    assert fs.endpoint_url == "http://127.0.0.1:9"
    assert fs.client_kwargs == {"region_name": "eu-west-1"}
    assert fs.retries == 1
    assert fs.config_kwargs["retries"] == {"max_attempts": 0}
    assert not fs.anon
    assert (engine.root, engine.container) == ("box/p/q", "box")
    assert engine_of("s3", settings({"anonymous": "true"})).fs.anon


def test_gcsfs_arguments() -> None:
    given = {"anonymous": "1", "project": "lab"}
    engine = engine_of("gs", settings(given, "http://127.0.0.1:9"))
    assert engine.fs.credentials.method == "anon"
    assert engine.fs.project == "lab"
    assert engine.fs.base == "http://127.0.0.1:9/storage/v1/"
    with pytest.raises(CredentialsError, match="service_account"):
        engine_of("gs", settings({"service_account": "{broken"}))


def test_adlfs_arguments() -> None:
    given = {"account_name": "acc", "account_key": "a2V5"}
    engine = engine_of("az", settings(given, "http://127.0.0.1:9/acc"))
    assert engine.fs.connection_string == (
        "AccountName=acc;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/acc"
    )
    assert engine.root == "box/p/q"


def test_webdav4_arguments() -> None:
    engine = engine_of("webdav+http", settings({"user": "u", "password": "p"}), "127.0.0.1:9")
    assert str(engine.fs.client.base_url) == "http://127.0.0.1:9"
    assert engine.root == "p/q"
    engine.close()


def test_sftp_gets_what_paramiko_takes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sftp(MemoryFileSystem):  # type: ignore[misc]
        """Takes what paramiko's connect() takes; fsspec's own hands it everything."""

        seen: Mapping[str, Any] = MappingProxyType({})

        def __init__(self, host: str, **given: Any) -> None:
            super().__init__()
            assert set(given) <= {"port", "username", "password", "timeout", "key_filename"}
            Sftp.seen = given

        @staticmethod
        def _get_kwargs_from_urls(url: str) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda protocol: Sftp)
    source = Source("sftp", "h:22", "dir", "sftp://h:22/dir")
    credentials = {"user": "ann", "password": "p", "key_filename": "/k"}
    open_engine(source, Settings(cache_dir=Path("/nonexistent"), credentials=credentials))
    assert Sftp.seen["port"] == 22
    assert Sftp.seen["username"] == "ann"
    assert Sftp.seen["key_filename"] == "/k"


def test_a_refused_login_of_a_package_that_connects_at_once_is_denied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class AuthenticationException(Exception):
        """As paramiko's is called."""

    class Sftp(MemoryFileSystem):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            raise AuthenticationException("Authentication failed.")

    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda protocol: Sftp)
    with pytest.raises(Denied, match="Authentication failed"):
        open_fsspec(Source("sftp", "h", "dir", "sftp://h/dir"), Settings(cache_dir=Path("/n")))


def test_a_package_that_is_slow_to_import_is_no_remote_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time limit is for another thread; who opens the store imports first."""
    asked_by: list[threading.Thread] = []

    def found(protocol: str) -> Any:
        asked_by.append(threading.current_thread())
        return MemoryFileSystem

    monkeypatch.setattr(fsspec, "get_filesystem_class", found)
    open_fsspec(Source("sftp", "h", "dir", "sftp://h/dir"), settings()).close()
    assert asked_by[0] is threading.current_thread()


def test_a_package_that_breaks_as_it_is_imported_leaves_a_remote_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As paramiko beside an older cryptography: no ImportError, and no defect of ours."""

    def found(protocol: str) -> Any:
        raise AttributeError("module 'lib' has no attribute 'X509_V_FLAG_NOTIFY_POLICY'")

    monkeypatch.setattr(fsspec, "get_filesystem_class", found)
    with pytest.raises(Unreachable, match="sftp://h/dir: module 'lib' has no attribute"):
        open_fsspec(Source("sftp", "h", "dir", "sftp://h/dir"), settings())


def test_gcsfs_is_told_to_ask_no_grpc_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str | None] = []

    def found(protocol: str) -> Any:
        told.append(os.environ.get("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"))
        return MemoryFileSystem

    monkeypatch.delenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", raising=False)
    monkeypatch.setattr(fsspec, "get_filesystem_class", found)
    open_fsspec(Source("gs", "b", "p", "gs://b/p"), settings()).close()
    assert set(told) == {"false"}


def test_two_stores_never_share_an_instance() -> None:
    given = settings({"access_key_id": "K", "secret_access_key": "S"})
    assert engine_of("s3", given).fs is not engine_of("s3", given).fs


def test_a_bucket_must_be_named_and_a_protocol_must_exist() -> None:
    with pytest.raises(UsageError, match="bucket must be named"):
        engine_of("s3", settings(), "")
    with pytest.raises(UsageError, match="no protocol"):
        engine_of("nosuch", settings())


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="ocifs"):
        engine_of("oci", settings())
