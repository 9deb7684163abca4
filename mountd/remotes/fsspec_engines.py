"""From a Source and settings to an fsspec file system: each package has arguments of its own.

Credentials that are not given are left to the package's own chain (AWS_*, ~/.aws, gcloud, ...).
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem
from fsspec.asyn import get_loop, sync

from mountd.config import Settings
from mountd.config.credentials import CREDENTIALS, is_anonymous
from mountd.config.source import Source
from mountd.errors import CredentialsError, UsageError
from mountd.remotes.fsspec_azure import azure_listing
from mountd.remotes.tls import is_default, tls_of

_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure", "webdav": "webdav"}
_LOCAL_PROTOCOLS = frozenset(("local", "file"))
# They have no cache of listings, and hand what they don't know to webdav4's and paramiko's clients.
_WITHOUT_CACHES = frozenset(("webdav", "sftp", "ssh"))
# adlfs hands its client nothing of that kind; ossfs, swiftspec and others have no such argument.
TAKES_TLS = frozenset(("s3", "gs", "webdav", "webdav+http"))
_SERVER_PROTOCOLS = frozenset(("sftp", "ssh", "ftp", "smb"))


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Engine:
    """An fsspec file system and where in it the mounted prefix is.

    `root` has no slash at its end. `container` is what must exist for a missing key to be just
    missing ("": there is no such thing). `is_parallel`: its calls may run in several threads.
    `close` drops connections where the file system doesn't do it by itself when collected. `ls`
    lists instead of a file system's own `_ls` that can't be relied on.

    For writing. `makes_directories`: they can be made, and removed when they are empty.
    `puts_are_whole`: nobody ever sees a part of what is put. `takes_mode`: `mode="create"` makes
    only what isn't there. `server_copy`: `cp_file` moves no bytes through us. Bodies up to
    `largest_pipe_bytes` go as bytes, others as a local file.
    """

    fs: Any
    root: str
    container: str
    real_directories: bool
    strong_version: bool
    is_parallel: bool
    close: Callable[[], None] = _nothing
    ls: Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]] | None = None
    makes_directories: bool = True
    puts_are_whole: bool = True
    takes_mode: bool = False
    server_copy: bool = False
    largest_pipe_bytes: int = 8 << 20


def load_package(source: Source) -> None:
    """Imports what `open_engine` will need: a second of CPU, and more on a busy machine, that says
    nothing about a remote. Raises UsageError for a package that is not installed."""
    protocol = source.scheme.removesuffix("+http")
    _class_of("az" if protocol.startswith("abfs") else protocol)


def open_engine(source: Source, settings: Settings) -> Engine:
    """Raises UsageError for a package that is not installed or a SOURCE that it can't serve, and
    CredentialsError where it is clear without a request that there are none."""
    match source.scheme:
        case "s3" | "gs" | "az" | "abfs" | "abfss" | "oss":
            return _object_store(source, settings)
        case "webdav" | "webdav+http":
            return _webdav(source, settings)
        case "memory":
            root = f"/{source.prefix}".rstrip("/")
            return Engine(
                *(_open("memory", {}), root, "", False, False, True),
                takes_mode=True,
                server_copy=True,
                largest_pipe_bytes=sys.maxsize,  # put_file writes piece by piece
            )
        case _:
            return _anything(source, settings)


def _object_store(source: Source, settings: Settings) -> Engine:
    if not source.authority:
        # s3fs answers an empty listing when listing buckets is refused.
        raise UsageError(f"{source.text}: with engine = fsspec the bucket must be named")
    protocol = "az" if source.scheme.startswith("abfs") else source.scheme
    arguments: dict[str, Callable[[Settings], dict[str, Any]]]
    arguments = {"s3": _s3_arguments, "gs": _gcs_arguments, "az": _azure_arguments}
    arguments["oss"] = _oss_arguments
    container = source.authority.partition("@")[0]
    fs = _open(protocol, arguments[protocol](settings))
    # Trying again is RetryingStore's, which knows Retry-After and the time that is left.
    if protocol in ("s3", "gs"):
        fs.retries = 1
    root = f"{container}/{source.prefix}".rstrip("/")
    ls = azure_listing(fs) if protocol == "az" else None
    return Engine(
        *(fs, root, container, False, True, True),
        ls=ls,
        makes_directories=False,
        takes_mode=True,
        # adlfs doesn't wait for the end of a copy.
        server_copy=protocol != "az",
    )


def _s3_arguments(settings: Settings) -> dict[str, Any]:
    given = settings.credentials
    client: dict[str, Any] = {"region_name": settings.region} if settings.region else {}
    if not is_default(settings):
        # A path is all that botocore takes: its authorities stand in the place of the system's.
        client["verify"] = str(settings.ca_file) if settings.tls_verify else False
    style = given.get("addressing_style", "auto")
    found = {
        "anon": is_anonymous(given),
        "key": given.get("access_key_id"),
        "secret": given.get("secret_access_key"),
        "token": given.get("session_token"),
        "profile": given.get("profile"),
        "endpoint_url": settings.endpoint,
        "client_kwargs": client,
        "config_kwargs": {
            "connect_timeout": min(5.0, settings.request_timeout_s),
            "read_timeout": settings.request_timeout_s,
            "max_pool_connections": settings.max_transfers + 8,
            "retries": {"max_attempts": 0},
            "s3": {"addressing_style": style},
        },
    }
    return {name: value for name, value in found.items() if value is not None}


def _oss_arguments(settings: Settings) -> dict[str, Any]:
    """ossfs has no chain: it takes Aliyun's own names of a region's endpoint, and keys."""
    from mountd.remotes.s3_doors import oss_settings

    ours = oss_settings(settings, os.environ)
    given = ours.credentials
    found = {
        "endpoint": settings.endpoint or f"https://oss-{ours.region}.aliyuncs.com",
        "key": given.get("access_key_id"),
        "secret": given.get("secret_access_key"),
        "token": given.get("session_token"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _gcs_arguments(settings: Settings) -> dict[str, Any]:
    given = settings.credentials
    token: object = None
    if is_anonymous(given) or given.get("token") == "anon":
        token = "anon"
    elif account := given.get("service_account"):
        token = _json_or_path(account)
    elif text := given.get("token"):
        token = _google_token(text)
    found = {
        "token": token,
        "project": given.get("project"),
        "endpoint_url": settings.endpoint,
        "session_kwargs": None if is_default(settings) else {"connector": _connector(settings)},
    }
    return {name: value for name, value in found.items() if value is not None}


def _connector(settings: Settings) -> object:
    """For the endpoint alone: who gives tokens (Google) is verified as always."""
    import aiohttp

    context = tls_of(settings).context()

    async def make() -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=context)

    return sync(get_loop(), make)  # it belongs to the loop in which it was made


def _google_token(text: str) -> object:
    """gcsfs takes a text for the name of a file."""
    try:
        from google.oauth2.credentials import Credentials
    except ImportError as error:
        raise UsageError("gs:// needs the extra: pip install 'mountd[gcs]'") from error
    make: Any = Credentials
    return make(text)


def _json_or_path(text: str) -> object:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise CredentialsError("service_account is neither a path nor a JSON key") from error


def _azure_arguments(settings: Settings) -> dict[str, Any]:
    given = settings.credentials
    names = ["account_name", "account_key", "sas_token", "connection_string"]
    names += ["tenant_id", "client_id", "client_secret"]
    found: dict[str, Any] = {name: given[name] for name in names if given.get(name)}
    if is_anonymous(given):
        found["anon"] = True
    elif given.get("token"):
        raise UsageError("az:// takes a token only without engine = fsspec")
    if settings.endpoint and "connection_string" not in found:
        # adlfs only takes a host; a whole endpoint (azurite, sovereign clouds) goes in like this.
        parts = {
            "AccountName": found.get("account_name"),
            "AccountKey": found.get("account_key"),
            "SharedAccessSignature": found.get("sas_token", "").lstrip("?"),
            "BlobEndpoint": settings.endpoint,
        }
        found["connection_string"] = ";".join(f"{k}={v}" for k, v in parts.items() if v)
    found["connection_timeout"] = 5
    found["read_timeout"] = max(1, int(settings.request_timeout_s))
    return found


def _webdav(source: Source, settings: Settings) -> Engine:
    scheme = "http" if source.scheme == "webdav+http" else "https"
    given = settings.credentials
    arguments: dict[str, Any] = {
        "base_url": settings.endpoint or f"{scheme}://{source.authority}",
        "timeout": settings.request_timeout_s,
    }
    if not is_default(settings):
        arguments["verify"] = tls_of(settings).context()
    if given.get("token"):
        arguments["headers"] = {"Authorization": f"Bearer {given['token']}"}
    elif given.get("user"):
        arguments["auth"] = (given["user"], given.get("password", ""))
    fs = _open("webdav", arguments)
    return Engine(fs, source.prefix, "", True, False, True, close=fs.client.http.close)


def _anything(source: Source, settings: Settings) -> Engine:
    """Any other protocol: the URL itself says where, `user` and `password` who."""
    if source.scheme in _LOCAL_PROTOCOLS:
        raise UsageError(f"{source.text}: file:// has a store of its own")
    given = settings.credentials
    url = f"{source.scheme}://{source.authority}/{source.prefix}".rstrip("/")
    klass = _class_of(source.scheme)
    arguments: dict[str, Any] = dict(klass._get_kwargs_from_urls(url))
    if source.scheme in _SERVER_PROTOCOLS:
        host = urlsplit(f"//{source.authority}")
        arguments |= {"host": host.hostname, "port": host.port}
        arguments |= {"username": given.get("user"), "password": given.get("password")}
    if source.scheme in ("sftp", "ssh"):
        arguments["timeout"] = min(10.0, settings.request_timeout_s)
    # What only this package knows (`key_filename`, ...) goes on under its own name.
    arguments |= {name: value for name, value in given.items() if name not in CREDENTIALS}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    fs = _open(source.scheme, arguments)
    root = str(fs._strip_protocol(url)).rstrip("/")
    is_async = bool(getattr(fs, "async_impl", False))
    # paramiko's client, ftplib's connection; others have neither and close when collected.
    connection = getattr(fs, "client", None) or getattr(fs, "ftp", None)
    close = getattr(connection, "close", None) or _nothing
    return Engine(
        *(fs, root, "", True, False, is_async, close),
        # fsspec's own mv() is a copy and a removal: nothing is gained by that.
        puts_are_whole=type(fs).mv is AbstractFileSystem.mv,
    )


def _class_of(protocol: str) -> Any:
    # gcsfs looks as it is imported, and else asks a gRPC endpoint first, which took 35 to 68 s per
    # call on an emulator.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        return fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f"pip install 'mountd[{extra}]'" if extra else str(error)
        raise UsageError(f"{protocol}:// through fsspec needs a package: {fix}") from error
    except ValueError as error:
        raise UsageError(f"fsspec knows no protocol {protocol}://") from error


def _open(protocol: str, arguments: Mapping[str, Any]) -> Any:
    """An instance of our own, without caches: freshness is the metadata cache's business."""
    klass = _class_of(protocol)
    cache = {} if protocol in _WITHOUT_CACHES else {"use_listings_cache": False}
    try:
        return klass(**arguments, **cache, skip_instance_cache=True)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{protocol}:// through fsspec: {error}") from error
    except ImportError as error:
        raise UsageError(f"{protocol}:// through fsspec: {error}") from error
