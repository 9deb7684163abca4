"""A server whose certificate was signed by nobody that this machine knows, for each store."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest

from mountd.config import Settings
from mountd.config.source import Source, parse_source
from mountd.errors import Unreachable, UsageError
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.remotes.fsspec_store import open_fsspec
from mountd.remotes.gcs import store_of
from mountd.remotes.gcs_credentials import BearerToken, GcsAccess
from mountd.remotes.registry import open_store
from mountd.remotes.tls import tls_of
from tests.conftest import ExpectedLog
from tests.contract.targets_azure import azure_settings, azure_source
from tests.contract.targets_gcs import gcs_settings, gcs_source
from tests.contract.targets_s3 import BUCKET, S3Login, s3_settings, s3_source
from tests.fakes.body import BytesBody
from tests.servers.azurite import ACCOUNT, ACCOUNT_KEY, azurite_command, running_azurite
from tests.servers.dav import PASSWORD, USER
from tests.servers.gcs_emulator import running_gcs_emulator
from tests.servers.gcs_fake import TOKEN, running_gcs_fake
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server
from tests.servers.tls_front import TlsFront, running_tls_front
from tests.servers.wsgidav import running_wsgidav

pytestmark = pytest.mark.server

Open = Callable[[Settings], RemoteStore]
Served = tuple[TlsFront, Settings, Open]
Running = Iterator[Served]
NOT_TRUSTED = "not trusted: unable to get local issuer certificate; .*ca_file=/PATH"


@contextmanager
def s3(directory: Path) -> Running:
    with S3Server() as server:
        server.make_bucket(BUCKET)
        with running_tls_front(directory, server.port) as front:
            login = S3Login(front.origin, server.access_key, server.secret_key)
            source = s3_source(BUCKET, "p")
            yield front, s3_settings(login), lambda settings: open_store(source, settings)


@contextmanager
def azure(directory: Path) -> Running:
    if azurite_command() is None:
        pytest.skip("azurite is not installed")
    with (
        running_azurite(directory) as azurite,
        running_tls_front(directory, urlsplit(azurite.endpoint).port or 0) as front,
    ):
        settings = azure_settings(f"{front.origin}/{ACCOUNT}", account_key=ACCOUNT_KEY)
        source = azure_source(azurite.container, "p")
        yield front, settings, lambda settings: open_store(source, settings)


@contextmanager
def gcs(directory: Path) -> Running:
    with (
        running_gcs_fake() as fake,
        running_tls_front(directory, urlsplit(fake.endpoint).port or 0) as front,
    ):

        def opened(settings: Settings) -> RemoteStore:
            tokens = BearerToken(TOKEN)
            access = GcsAccess(front.origin, tokens, "", has_xml_api=True, tls=tls_of(settings))
            return store_of(access, Source("gs", fake.bucket, "p", ""), 20.0)

        yield front, Settings(Path("/nonexistent")), opened


@contextmanager
def webdav(directory: Path) -> Running:
    with (
        running_wsgidav(directory) as server,
        running_tls_front(directory, urlsplit(server.url).port or 0) as front,
    ):
        given = MappingProxyType({"user": USER, "password": PASSWORD})
        source = parse_source(f"webdav://127.0.0.1:{front.port}/")
        settings = Settings(Path("/nonexistent"), request_timeout_s=20.0, credentials=given)
        yield front, settings, lambda settings: open_store(source, settings)


@contextmanager
def nextcloud(directory: Path) -> Running:
    with NextcloudServer() as server, running_tls_front(directory, server.port) as front:
        given = MappingProxyType({"user": server.user, "password": server.password})
        source = parse_source(f"nextcloud://127.0.0.1:{front.port}/")
        settings = Settings(Path("/nonexistent"), request_timeout_s=20.0, credentials=given)
        yield front, settings, lambda settings: open_store(source, settings)


@contextmanager
def s3fs(directory: Path) -> Running:
    with s3(directory) as (front, settings, opened):
        yield front, replace(settings, engine="fsspec"), opened


@contextmanager
def webdav4(directory: Path) -> Running:
    with webdav(directory) as (front, settings, opened):
        yield front, replace(settings, engine="fsspec"), opened


@contextmanager
def gcsfs(directory: Path) -> Running:
    with (
        running_gcs_emulator(directory) as emulator,
        running_tls_front(directory, urlsplit(emulator.endpoint).port or 0) as front,
    ):
        settings = gcs_settings(front.origin, 5.0, anonymous="true", project="test")
        source = gcs_source(emulator.bucket, "p")
        yield (
            front,
            replace(settings, engine="fsspec"),
            lambda settings: open_store(source, settings),
        )


@pytest.mark.parametrize("running", [s3, azure, gcs, webdav, nextcloud, s3fs, webdav4, gcsfs])
def test_a_certificate_that_nobody_knows_is_refused_until_its_authority_is_given(
    running: Callable[[Path], AbstractContextManager[Served]],
    tmp_path: Path,
    expected_log: ExpectedLog,
) -> None:
    with running(tmp_path) as (front, settings, opened):
        store = opened(settings)
        # gcsfs tries again and again, and only our time limit ends that.
        why = "FSTimeoutError" if running is gcsfs else NOT_TRUSTED

        def is_refused(ask: Callable[[], object]) -> None:
            with pytest.raises(Unreachable, match=why):
                ask()

        asks: list[Callable[[], object]] = [
            lambda: store.stat("k"),
            lambda: list(store.list("")),
            lambda: store.read("k", 0, 1, '"v"'),
            lambda: store.put("k", BytesBody(b"secret"), ABSENT, Upload()),
        ]
        with ThreadPoolExecutor(len(asks)) as pool:
            list(pool.map(is_refused, asks))
        store.close()
        check_works(opened(replace(settings, ca_file=front.ca_file)), "with-authority")
        expected_log("certificates are not verified: anybody on the way")
        check_works(opened(replace(settings, tls_verify=False)), "unverified")


def check_works(store: RemoteStore, key: str) -> None:
    made = store.put(key, BytesBody(b"0123456789"), ABSENT, Upload())
    entry = store.stat(key)
    assert bytes(store.read(key, 2, 5, entry.version)) == b"234"
    assert key in [entry.name for page in store.list("") for entry in page]
    store.delete(key, entry.version or made.version)
    store.close()


def test_a_certificate_for_another_host_is_refused_although_its_authority_is_known(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    with running_tls_front(tmp_path, nextcloud_server.port, "127.0.0.2") as front:
        given = MappingProxyType({"user": "ann", "password": "pw"})
        settings = Settings(Path("/c"), credentials=given, ca_file=front.ca_file)
        store = open_store(parse_source(f"nextcloud://127.0.0.2:{front.port}/"), settings)
        with pytest.raises(Unreachable, match=r"certificate is not valid for '127\.0\.0\.2'"):
            store.stat("k")
        store.close()
    assert not nextcloud_server.log()


def test_what_is_no_authority_is_refused_before_any_request(tmp_path: Path) -> None:
    source, settings = parse_source("s3://bucket"), Settings(Path("/c"))
    anonymous = replace(settings, credentials=MappingProxyType({"anonymous": "true"}))
    (tmp_path / "empty").write_text("")
    (tmp_path / "text").write_text("no certificate\n")
    for name, why in (
        ("gone", "No such file"),
        ("empty", "no certificates in PEM"),
        ("text", "no certificates in PEM"),
    ):
        with pytest.raises(UsageError, match=why):
            open_store(source, replace(anonymous, ca_file=tmp_path / name))


def test_a_store_that_can_not_be_told_refuses_instead_of_not_listening() -> None:
    settings = Settings(Path("/c"), engine="fsspec", tls_verify=False)
    for source in ("az://container", "oss://bucket", "ftp://host/x"):
        with pytest.raises(UsageError, match="takes no ca_file and no tls_verify"):
            open_fsspec(parse_source(source), settings)
