"""The options: how each one's value is read, and the line that a bad one gets."""

import grp
import math
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from mountd.config import MIB
from mountd.config.source import nearest, without_secrets
from mountd.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)", re.IGNORECASE)
_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))

UNVERIFIED = "no-i-accept-that-anybody-can-read-and-change-my-data"

# What mount(8), fstab and systemd add to every file system's options; nothing to us.
_FROM_FSTAB = frozenset(
    (
        *("rw", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group"),
        *("nofail", "_netdev", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync"),
        *("async", "dirsync", "atime", "noatime", "diratime", "nodiratime", "relatime"),
        *("norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "mand", "nomand"),
    )
)


@dataclass(frozen=True, slots=True)
class Option:
    """`read` turns the text into the value, or raises ValueError; `expects` says what it takes.

    `meaning` is for people: `mountd mount --help` and docs/config-reference.md are made of it.
    """

    read: Callable[[str], object]
    expects: str
    meaning: str


def read_size(text: str) -> int:
    """Bytes. `K`, `M`, ... and `KiB`, `MiB`, ... are powers of 1024, `kB`, `MB`, ... of 1000."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size")
    number, letter, unit = match.groups()
    base = 1000 if unit.lower() == "b" and letter else 1024
    power = " kmgtp".index(letter.lower()) if letter else 0
    return int(float(number) * base**power) if "." in number else int(number) * base**power


def read_bool(text: str) -> bool:
    """`true`, `yes`, `on`, `1` and their opposites."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return word in _TRUE


def read_option(name: str, text: str, where: str) -> object:
    """The value of option `name`. `where` says in messages where the option stood.

    Raises UsageError for an unknown name (with the nearest valid one) and for a bad value.
    """
    option = OPTIONS.get(name)
    if option is None:
        raise UsageError(f"{where}: unknown option {name!r}{nearest(name, OPTIONS)}")
    try:
        return option.read(text)
    except (ValueError, OverflowError) as error:
        shown = without_secrets(text)
        raise UsageError(f"{where}: {name}={shown}: {name} takes {option.expects}") from error


def split_option_list(text: str) -> Iterator[tuple[str, str | None]]:
    """(KEY, VALUE) of `KEY=VALUE,KEY,...`; VALUE is None for a bare KEY; `\\,` is a comma."""
    for part in re.split(r"(?<!\\),", text):
        key, equals, value = part.replace("\\,", ",").partition("=")
        if key.strip():
            yield key.strip(), value if equals else None


def is_from_fstab(key: str, value: str | None) -> bool:
    """Whether mount(8) or systemd may have put this option there for itself."""
    return (
        key.startswith(("x-", "X-")) or key == "comment" or (value is None and key in _FROM_FSTAB)
    )


def _sized(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        size = read_size(text)
        if not low <= size <= high:
            raise ValueError(f"{text} is out of range")
        return size

    return read


def _block_size(text: str) -> int:
    size = _sized(64 << 10, 64 * MIB)(text)
    if size & (size - 1):
        raise ValueError("not a power of two")
    return size


def _seconds(low: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        seconds = float(text)
        if not math.isfinite(seconds) or seconds < low:
            raise ValueError(f"{text} is out of range")
        return seconds

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(f"{text} is out of range")
        return number

    return read


def _one_of(*words: str, meaning: str) -> Option:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of them")
        return text

    return Option(read, " or ".join(words), meaning)


def _switch(meaning: str) -> Option:
    return Option(read_bool, "true or false", meaning)


def _bandwidth(meaning: str) -> Option:
    def read(text: str) -> int | None:
        return read_size(text) or None

    return Option(read, "bytes per second such as 10MiB (0: unlimited)", meaning)


def _user(text: str) -> int:
    return _whole(0, 2**32 - 2)(text) if text.isdecimal() else _by_name(pwd.getpwnam, text)


def _group(text: str) -> int:
    if text.isdecimal():
        return _whole(0, 2**32 - 2)(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError as error:
        raise ValueError(f"no group {text}") from error


def _by_name(look_up: Callable[[str], pwd.struct_passwd], text: str) -> int:
    try:
        return look_up(text).pw_uid
    except KeyError as error:
        raise ValueError(f"no user {text}") from error


def _umask(text: str) -> int:
    mask = int(text, 8)
    if not 0 <= mask <= 0o777:
        raise ValueError(f"{text} is out of range")
    return mask


def _directory(text: str) -> Path:
    if not text:
        raise ValueError("empty")
    return Path(text).expanduser().absolute()


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("no http(s) URL")
    _ = parts.port  # raises ValueError for a bad one
    return text.rstrip("/")


def _word(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError("empty or with spaces")
    return text


def _host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    is_host = ":" not in host or (host.startswith("[") and host.endswith("]"))
    if not colon or not is_host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("no host:port")
    return f"{host or '127.0.0.1'}:{int(port)}"


def _ca_file(text: str) -> Path:
    path = Path(os.path.expandvars(text)).expanduser()
    if not path.is_absolute():
        raise ValueError("not absolute")
    return path


def _tls_verify(text: str) -> bool:
    """A word that nobody types in passing."""
    if text != UNVERIFIED and not read_bool(text):
        raise ValueError("no is said in another way")
    return text != UNVERIFIED


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "cache_dir": Option(
            _directory,
            "a directory",
            "where cache, queue and logs are, a folder for each SOURCE; has to survive restarts",
        ),
        "cache_size": Option(
            _sized(MIB, 1 << 60),
            "a size such as 20GiB, at least 1MiB",
            "how large the cache may grow; 5 % of the disk stay free in any case",
        ),
        "block_size": Option(
            _block_size, "a power of two from 64KiB to 64MiB", "the unit that the cache keeps"
        ),
        "metadata_ttl_s": Option(
            _seconds(0),
            "seconds, 0 or more",
            "how long a folder's listing is believed before the remote is asked again",
        ),
        "write_back_s": Option(
            _seconds(0), "seconds, 0 or more", "how long a closed file waits before it is sent"
        ),
        "durability": _one_of(
            "local",
            "remote",
            meaning="what close, fsync and changes of names wait for: this disk, or the remote",
        ),
        "stop_timeout_s": Option(
            _seconds(0),
            "seconds, 0 or more",
            "how long umount and SIGTERM wait for the queue; what is left stays on disk",
        ),
        "request_timeout_s": Option(
            _seconds(0.1),
            "seconds, 0.1 or more",
            "how long a request to the remote may take; a large body gets more",
        ),
        "read_only": _switch("nothing can be written; ro is the same"),
        "allow_other": _switch(
            "other users see the mount, too; needs user_allow_other for non-root"
        ),
        "uid": Option(_user, "a user of this machine, or a number", "whom files belong to"),
        "gid": Option(
            _group, "a group of this machine, or a number", "the group that files belong to"
        ),
        "umask": Option(
            _umask,
            "an octal mask such as 022",
            "bits taken away from 777 and 666, where no mode is kept",
        ),
        "xattrs": _switch("extended attributes; without them small writes cost less"),
        "metadata": _one_of(
            "fast",
            "full",
            meaning="full: times and modes that others stored, at a request for each file",
        ),
        "endpoint": Option(
            _endpoint,
            "a URL such as https://s3.example.org, without a password",
            "the server, where it is not the provider's own",
        ),
        "region": Option(_word, "a region's name", "the bucket's region (S3)"),
        "ca_file": Option(
            _ca_file,
            "the absolute path of certificates in PEM",
            "authorities that are trusted beside the system's, for a server with one of its own",
        ),
        "tls_verify": Option(
            _tls_verify,
            f"true, or {UNVERIFIED}; better give ca_file=/PATH",
            "whether the server has to prove by a certificate that it is the right one",
        ),
        "engine": _one_of(
            "native", "fsspec", meaning="who talks to the remote; fsspec is slower, for comparison"
        ),
        "max_transfers": Option(
            _whole(1, 1024), "a number from 1 to 1024", "requests to the remote at once"
        ),
        "bandwidth_up": _bandwidth("a limit for what is sent"),
        "bandwidth_down": _bandwidth("a limit for what is fetched"),
        "log_level": _one_of("debug", "info", "warning", "error", meaning="what is logged"),
        "log_format": _one_of("text", "json", meaning="lines for people, or an object for each"),
        "metrics": Option(
            _host_port,
            "host:port, or :port of 127.0.0.1",
            "where /metrics, /healthz and /readyz are served",
        ),
    }
)
