"""`rclone:NAME:path`: which of our own sources it is, and the settings that rclone has for it.

The same data under its own URL is the same Source but for its text, so both share a cache folder.
What would read or write other bytes than rclone does there is refused.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from urllib.parse import SplitResult, unquote, urlsplit

from mountd.config.file import Section
from mountd.config.options import read_option
from mountd.config.rclone_conf import RcloneConfig, RcloneRemote, read_rclone
from mountd.config.source import Source, parse_source
from mountd.errors import UsageError

_SOURCE = re.compile(r"([\w.+@][\w.+@ -]*):(.*)", re.DOTALL)
_NEXTCLOUD = re.compile(r"(.*)/remote\.php/(?:dav/files/([^/]+)|webdav)((?:/.*)?)", re.DOTALL)
_HOST = re.compile(r"[\w.\-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
_ACCOUNT_HOST = re.compile(r"([a-z0-9]+)\.blob\.core\.windows\.net")
_LAYERS = ("archive", "cache", "chunker", "combine", "compress", "crypt", "hasher", "union")
_S3_DOOR = "use its S3 door: s3://BUCKET/PATH with -o endpoint"
_INSTEAD = {
    **dict.fromkeys(("b2", "oracleobjectstorage", "qingstor", "storj", "swift"), _S3_DOOR),
    **dict.fromkeys(("ftp", "sftp"), "write TYPE://HOST/PATH, with MOUNTD_USER and its like"),
    **dict.fromkeys(("hdfs", "smb"), "write TYPE://HOST/PATH, with its fsspec package installed"),
    "http": "write its URL: https://HOST/PATH",
}
_NOT_IN_WEBDAV = {
    "headers": "",
    "bearer_token_command": "set MOUNTD_TOKEN or MOUNTD_TOKEN_FILE",
    "unix_socket": "",
}
_NOT_IN_S3 = {
    "role_arn": "name it in a profile of ~/.aws/config, and set env_auth = true and profile",
    "shared_credentials_file": "set AWS_SHARED_CREDENTIALS_FILE",
    "server_side_encryption": "make it the bucket's default, and remove the line",
    "v2_auth": "",
    **dict.fromkeys(("sse_customer_key", "sse_customer_key_base64", "sse_kms_key_id"), ""),
    **dict.fromkeys(("ibm_api_key", "directory_bucket", "use_accelerate_endpoint"), ""),
    **dict.fromkeys(("requester_pays", "versions", "version_at"), ""),
}
_NOT_IN_GCS = {
    "token": "make a service account, or type gcloud auth application-default login and set "
    "env_auth = true",
}
_NOT_IN_AZURE = {
    "client_certificate_path": "use client_secret, a key or a SAS",
    "service_principal_file": "use tenant, client_id and client_secret",
    "username": "use a key or a SAS",
}
_RIGHTS = frozenset(
    (
        *("password", "token", "secret_access_key", "session_token", "profile", "anonymous"),
        *("account_key", "sas_token", "connection_string", "client_secret", "service_account"),
    )
)
# MOUNTD_PASSWORD may be there for another mount; S3 has no use for it.
_RIGHTS_OF = {
    "s3": _RIGHTS & {"secret_access_key", "session_token", "profile", "anonymous"},
    "gs": _RIGHTS & {"service_account", "token", "anonymous"},
    "az": _RIGHTS - {"password", "secret_access_key", "session_token", "profile"},
    "webdav": _RIGHTS & {"password", "token"},
    "webdav+http": _RIGHTS & {"password", "token"},
    "nextcloud": _RIGHTS & {"password", "token"},
}


@dataclass(frozen=True, slots=True)
class _Found:
    source: Source
    options: Mapping[str, object] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


def is_of_rclone(text: str) -> bool:
    return text.startswith("rclone:") and not text.startswith("rclone://")


def resolve_rclone(
    text: str, environ: Mapping[str, str] = os.environ, config: RcloneConfig | None = None
) -> tuple[Source, Section]:
    """The Source, whose `text` stays `rclone:NAME:path`, and what rclone sets for it.

    Aliases are followed. Raises UsageError, which repeats no value of a key.
    """
    name, path = _split(text.removeprefix("rclone:"), "SOURCE")
    remote, path = _follow(config or read_rclone(environ), name, path)
    if not path.isprintable() or ".." in path.split("/"):
        raise UsageError(f"SOURCE rclone:{name}: the path has control characters or a ..")
    make = _TYPES.get(remote.type)
    if make is None:
        raise remote.error(_not_supported(remote.type))
    found = make(remote, path)
    section = Section(
        title=remote.place, options=found.options, credentials=_without_empty(found.credentials)
    )
    return replace(found.source, text=text.rstrip("/") if path.strip("/") else text), section


def under_given(
    credentials: Mapping[str, str], given: Mapping[str, str], scheme: str
) -> dict[str, str]:
    """rclone's `credentials` with those that were given otherwise over them: a right that was
    given, and that `scheme` knows, replaces every one of rclone's, whatever a store would prefer.
    """
    dropped: set[str] = set()
    if not _RIGHTS_OF.get(scheme, _RIGHTS).isdisjoint(given):
        dropped |= _RIGHTS
    if "profile" in given or "anonymous" in given:
        dropped.add("access_key_id")
    if "user" in given:
        dropped.add("login_name")
    return {k: v for k, v in credentials.items() if k not in dropped} | dict(given)


def _split(text: str, where: str) -> tuple[str, str]:
    match = _SOURCE.fullmatch(text)
    if match is not None:
        return match[1], match[2]
    # What follows a comma may be `pass=...`: it is not repeated.
    if re.match(r":|[^:/]*,", text):
        raise UsageError(
            f"{where}: rclone's connection strings are not supported; write the remote into "
            "rclone.conf, or set RCLONE_CONFIG_NAME_TYPE and its like"
        )
    raise UsageError(f"{where}: that names no remote of rclone; write rclone:NAME:PATH")


def _follow(config: RcloneConfig, name: str, path: str) -> tuple[RcloneRemote, str]:
    """The remote behind all aliases, and the path on it."""
    seen = set()
    while True:
        remote = config.remote(name)
        if remote.type != "alias":
            return remote, path
        seen.add(name)
        target = remote.get("remote")
        if ":" not in target.partition("/")[0]:
            if not target.startswith("/"):
                raise remote.error("remote is no absolute path and no NAME:PATH; write one")
            return replace(remote, values={"type": "local"}), f"{target}/{path}"
        name, below = _split(target, f"{remote.place} remote")
        if name in seen:
            raise remote.error(f"the alias leads back to {name!r}; mend remote")
        path = f"{below.rstrip('/')}/{path.lstrip('/')}" if below else path


def _not_supported(kind: str) -> str:
    if kind in _LAYERS:
        return (
            f"type {kind} changes what the files hold or where they lie, and mountd does not; "
            "mount what is below it, or keep to rclone"
        )
    instead = _INSTEAD.get(kind, "use its S3 or WebDAV door if it has one").replace("TYPE", kind)
    return f"type {kind!r} is not supported; {instead}"


def _without_empty(credentials: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in credentials.items() if value}


def _address(remote: RcloneRemote, key: str) -> SplitResult:
    """A checked http(s) URL, its host in lower case and without its scheme's own port."""
    wrong = f"{key} is no URL; write https://HOST/PATH, and user and password in their own keys"
    try:
        parts = urlsplit(remote.get(key))
        _ = parts.port
    except ValueError as error:
        raise remote.error(wrong) from error
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.netloc):
        raise remote.error(wrong)
    default = {"https": ":443", "http": ":80"}[parts.scheme]
    return parts._replace(netloc=parts.netloc.lower().removesuffix(default))


def _webdav(remote: RcloneRemote, path: str) -> _Found:
    remote.refuse(_NOT_IN_WEBDAV)
    vendor = remote.get("vendor").lower()
    if vendor.startswith("sharepoint"):
        raise remote.error(f"vendor {vendor} is not supported: it signs in in a way of its own")
    url = _address(remote, "url")
    if url.query or url.fragment:
        raise remote.error("url holds a ? or #; write it without")
    password = remote.password("pass")
    given = {
        "user": remote.get("user"),
        "password": password,
        "token": "" if password else remote.get("bearer_token"),
    }
    home = _NEXTCLOUD.fullmatch(url.path) if vendor == "nextcloud" else None
    if home is not None:
        return _nextcloud(remote, url, home, path, given)
    scheme = "webdav" if url.scheme == "https" else "webdav+http"
    return _Found(Source(scheme, url.netloc, _below(url.path, path), ""), {}, given)


def _nextcloud(
    remote: RcloneRemote,
    url: SplitResult,
    home: re.Match[str],
    path: str,
    given: Mapping[str, str],
) -> _Found:
    root, account = home[1].rstrip("/"), unquote(home[2] or "")
    user = account or given["user"]
    if not user:
        raise remote.error(
            "user is missing; write it, or url = https://HOST/remote.php/dav/files/USER"
        )
    login_name = given["user"] if given["user"] != user else ""
    is_plain = url.scheme == "https" and not root
    options = {} if is_plain else {"endpoint": f"{url.scheme}://{url.netloc}{root}"}
    source = Source("nextcloud", url.netloc, _below(home[3], path), "")
    return _Found(source, options, {**given, "user": user, "login_name": login_name})


def _below(encoded: str, path: str) -> str:
    return f"{unquote(encoded).strip('/')}/{path.strip('/')}".strip("/")


def _bucket(scheme: str, path: str) -> Source:
    bucket, _, prefix = path.strip("/").partition("/")
    return Source(scheme, bucket, prefix.strip("/"), "")


def _endpoint(remote: RcloneRemote, text: str) -> dict[str, object]:
    if not text:
        return {}
    text = text if "://" in text else f"https://{text}"
    if not _HOST.fullmatch(text.partition("://")[2].partition("/")[0]):
        raise remote.error("endpoint is no URL, or holds a user; write https://HOST[:PORT]")
    return {"endpoint": read_option("endpoint", text, remote.place)}


def _s3(remote: RcloneRemote, path: str) -> _Found:
    remote.refuse(_NOT_IN_S3)
    key, secret = remote.get("access_key_id"), remote.get("secret_access_key")
    if bool(key) != bool(secret):
        raise remote.error(f"{'secret_access_key' if key else 'access_key_id'} is missing")
    options = _endpoint(remote, remote.get("endpoint"))
    provider = remote.get("provider")
    if not options and provider not in ("", "AWS"):
        raise remote.error(f"endpoint is missing; write that of {provider}")
    if remote.get("region") not in ("", "other-v2-signature"):
        options["region"] = read_option("region", remote.get("region"), remote.place)
    given = {"access_key_id": key, "secret_access_key": secret}
    if key:
        given["session_token"] = remote.get("session_token")
    elif remote.is_on("env_auth"):
        given["profile"] = remote.get("profile")
    else:
        given["anonymous"] = "true"  # rclone asks neither AWS_* nor ~/.aws without env_auth
    if remote.get("force_path_style").lower() == "false":
        given["addressing_style"] = "virtual"
    return _Found(_bucket("s3", path), options, given)


def _gcs(remote: RcloneRemote, path: str) -> _Found:
    account = remote.values.get("service_account_credentials", "")
    if not account and remote.get("service_account_file"):
        account = os.path.expandvars(os.path.expanduser(remote.get("service_account_file")))
    given = {"project": remote.get("project_number"), "service_account": account}
    if remote.is_on("anonymous"):
        given |= {"anonymous": "true", "service_account": ""}
    elif not account and not remote.is_on("env_auth"):
        given["token"] = remote.get("access_token")
        if not given["token"]:  # with no `token` either rclone, too, asks Google's own chain
            remote.refuse(_NOT_IN_GCS)
    remote.refuse({"user_project": ""})
    endpoint = remote.get("endpoint").rstrip("/").removesuffix("/storage/v1")
    return _Found(_bucket("gs", path), _endpoint(remote, endpoint), given)


def _azure(remote: RcloneRemote, path: str) -> _Found:
    remote.refuse(_NOT_IN_AZURE)
    source = _bucket("az", path)
    if remote.is_on("use_emulator"):
        return _Found(source, {}, {"connection_string": "UseDevelopmentStorage=true"})
    if remote.get("sas_url") and not remote.get("key"):
        return _azure_sas(remote, source)
    given = {
        "account_name": remote.get("account"),
        "account_key": remote.get("key"),
        "connection_string": remote.get("connection_string"),
        "tenant_id": remote.get("tenant"),
        "client_id": remote.get("client_id") or remote.get("msi_client_id"),
        "client_secret": remote.get("client_secret"),
    }
    has_right = any(given[name] for name in ("account_key", "connection_string", "client_secret"))
    if not has_right and not any(map(remote.is_on, ("env_auth", "use_msi", "use_az"))):
        given["anonymous"] = "true"
    return _Found(source, _endpoint(remote, remote.get("endpoint")), given)


def _azure_sas(remote: RcloneRemote, source: Source) -> _Found:
    url = _address(remote, "sas_url")
    known = _ACCOUNT_HOST.fullmatch(url.netloc)
    name = remote.get("account") or (known[1] if known else "")
    root, container = "", unquote(url.path).strip("/")
    if name and f"{container}/".startswith(f"{name}/") and not known:  # an emulator's address
        root, container = f"/{name}", container.removeprefix(name).strip("/")
    if container and source.authority != container:
        raise remote.error(
            f"sas_url is for one container; write rclone:{remote.name}:{container}/PATH"
        )
    options = {} if known else _endpoint(remote, f"{url.scheme}://{url.netloc}{root}")
    return _Found(source, options, {"account_name": name, "sas_token": url.query})


def _local(remote: RcloneRemote, path: str) -> _Found:
    if not path.startswith("/"):
        raise remote.error(f"the path must be absolute; write rclone:{remote.name}:/DIR")
    return _Found(parse_source("file://" + path))


_TYPES: Mapping[str, Callable[[RcloneRemote, str], _Found]] = MappingProxyType(
    {
        "webdav": _webdav,
        "s3": _s3,
        **dict.fromkeys(("google cloud storage", "gcs", "googlecloudstorage"), _gcs),
        "azureblob": _azure,
        "local": _local,
    }
)
