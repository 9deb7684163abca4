"""SOURCE as the command line takes it: `s3://bucket/prefix`, `webdav://host/path`, ...

Nothing is decoded: a `%20` in SOURCE is three characters of the remote's own spelling.
"""

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from mountd.errors import UsageError

OWN_SCHEMES = frozenset(
    ("s3", "gs", "az", "oss", "swift", "nextcloud", "webdav", "webdav+http", "file", "memory")
)
# What fsspec serves besides. Its layers over other file systems (zip, cached, ...) are left out.
FSSPEC_SCHEMES = frozenset(
    (
        *("abfs", "abfss", "adl", "arrow_hdfs", "box", "dask", "dbfs", "dropbox", "ftp", "gdrive"),
        *("gist", "git", "github", "hdfs", "hf", "http", "https", "jlab", "jupyter", "lakefs"),
        *("oci", "ocilake", "root", "sftp", "smb", "ssh", "tos", "tosfs", "wandb", "webhdfs"),
    )
)
_ALIASES = {"s3a": "s3", "gcs": "gs", "local": "file"}
_CAN_BE_BARE = frozenset(("s3", "gs", "az", "oss", "swift", "file", "memory"))
_OBJECT_STORES = frozenset(("s3", "gs", "az", "oss", "swift", "abfs", "abfss"))
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_REMOTE_PATH = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.\-]*):(?!//)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed SOURCE.

    `scheme` is in lower case; `authority` is the bucket, container or host[:port] ("" for
    `file`, `memory` and a bare `s3://`); `prefix` has no slash at either end. `text` is SOURCE
    without user names or passwords, as status shows it. `user` is what stood before the `@` of a
    host; it comes back as the credential `user`.
    """

    scheme: str
    authority: str
    prefix: str
    text: str
    user: str = ""


def parse_source(text: str) -> Source:
    """A Source, or UsageError with one line that never repeats a password.

    `file:///dir` may be missing: its disk may be away (`missing_directory`). `NAME:path` is
    resolved with the config file (`config_load`); here it is an error.
    """
    shown = without_secrets(text)
    if not text or not text.isprintable():
        raise UsageError(f"SOURCE {shown!r} is empty or has control characters")
    match = _URL.fullmatch(text)
    if match is None:
        raise UsageError(_not_a_url(text))
    scheme = _known_scheme(match[1].lower(), shown)
    authority, _, path = match[2].partition("/")
    if scheme == "file":
        if not match[2]:
            raise UsageError(f"SOURCE {shown}: the directory is missing; write file:///dir")
        return _parse_file(authority, path, shown)
    if scheme == "memory":
        path = f"{authority}/{path}".strip("/")
        return Source(scheme, "", path, _text(scheme, "", path))
    user, authority = _split_user(scheme, match[2], authority, path)
    if not authority and (path.strip("/") or scheme not in _CAN_BE_BARE):
        what = "bucket" if scheme in _OBJECT_STORES else "host"
        raise UsageError(f"{shown}: the {what} is missing; write {scheme}://{what.upper()}/path")
    if scheme not in _OBJECT_STORES:
        _check_host(scheme, authority)
    prefix = path.strip("/")
    return Source(scheme, authority, prefix, _text(scheme, authority, prefix), user)


def split_remote_path(text: str) -> tuple[str, str] | None:
    """(`NAME`, `path`) of `NAME:path`, or None where SOURCE has another form."""
    match = _REMOTE_PATH.fullmatch(text)
    return (match[1], match[2]) if match else None


def without_secrets(text: str) -> str:
    """`text` with `user:password@` blotted out, fit for a message.

    Greedy up to the last `@`, because a password may hold slashes and further `@`.
    """
    return re.sub(r"(://)[^@]*:.*@", r"\1***@", text, flags=re.DOTALL)


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean X?` for the closest of `names`, or ""."""
    found = difflib.get_close_matches(word, sorted(names), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]}?" if found else ""


def _not_a_url(text: str) -> str:
    shown = without_secrets(text)
    if re.match(r"[A-Za-z]:[\\/]", text) or text.startswith("\\\\"):
        return f"SOURCE {shown} is a Windows path; a local directory is file:///dir"
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        path = os.path.abspath(os.path.expanduser(text))
        return f"SOURCE {shown} is a path; a local directory is file://{path}"
    if "::" in text:
        return f"SOURCE {shown}: chained fsspec URLs are not supported; mount the inner one"
    if text.startswith("rclone:"):
        return "SOURCE: a remote of rclone is not taken here; write its URL"
    named = split_remote_path(text)
    if named:
        return f"SOURCE {shown}: there is no remote {named[0]} in the config file"
    return f"SOURCE {shown} is no URL; write s3://BUCKET/PREFIX, webdav://HOST/PATH or NAME:path"


def _known_scheme(scheme: str, shown: str) -> str:
    scheme = _ALIASES.get(scheme, scheme)
    if scheme in OWN_SCHEMES:
        return scheme
    if scheme in ("http", "https") and ("remote.php" in shown or "/dav" in shown):
        raise UsageError(f"SOURCE {shown}: write webdav://HOST/PATH or nextcloud://HOST/PATH")
    if scheme in FSSPEC_SCHEMES or scheme in _installed_fsspec_schemes():
        return scheme
    hint = nearest(scheme, OWN_SCHEMES, 0.5) or nearest(scheme, FSSPEC_SCHEMES)
    own = ", ".join(sorted(OWN_SCHEMES))
    raise UsageError(f"unknown scheme {scheme}:// in SOURCE{hint or f'; there are {own}'}")


def _installed_fsspec_schemes() -> set[str]:
    # Read only for a scheme that we don't know: it costs 20 ms and more in a full environment.
    from importlib.metadata import entry_points

    return {point.name for point in entry_points(group="fsspec.specs")}


def _parse_file(authority: str, path: str, shown: str) -> Source:
    if authority not in ("", "localhost"):
        raise UsageError(f"SOURCE {shown}: a local directory has three slashes: file:///dir")
    directory = os.path.normpath("/" + path)
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise UsageError(f"SOURCE {shown}: {directory} is no directory; give one")
    prefix = str(PurePosixPath(directory).relative_to("/")) if directory.strip("/") else ""
    return Source("file", "", prefix, "file:///" + prefix)


def missing_directory(source: Source) -> str:
    """The directory of a `file://` source that is not there, else ""."""
    directory = f"/{source.prefix}"
    return directory if source.scheme == "file" and not os.path.isdir(directory) else ""


def _split_user(scheme: str, rest: str, authority: str, path: str) -> tuple[str, str]:
    """(user, host). Refuses a password in SOURCE, which every user of the machine could read."""
    if "@" not in authority:
        # `user:pa/ss@host`: the password was cut by the first slash, so nothing is shown here.
        user, colon, secret = authority.partition(":")
        if colon and "@" in path and not secret.isdigit():
            raise UsageError(_no_password(user))
        return "", authority
    user, _, host = authority.rpartition("@")
    if ":" in user:
        raise UsageError(_no_password(user.partition(":")[0]))
    return ("", authority) if scheme in _OBJECT_STORES else (user, host)


def _no_password(user: str) -> str:
    return (
        f"SOURCE holds a password, which everybody on this machine can read; set "
        f"MOUNTD_USER={user} and MOUNTD_PASSWORD_FILE=/path/to/file, and leave it out of SOURCE"
    )


def _check_host(scheme: str, authority: str) -> None:
    host, colon, port = authority.rpartition(":")
    if authority.startswith("[") and authority.endswith("]"):
        return
    if not colon:
        host = authority
    elif not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"SOURCE {scheme}://{authority}: the port after the : is no number")
    if not host:
        raise UsageError(f"SOURCE {scheme}://{authority}: the host is missing")


def _text(scheme: str, authority: str, prefix: str) -> str:
    if not authority or not prefix:
        return f"{scheme}://{authority}{prefix}"
    return f"{scheme}://{authority}/{prefix}"
