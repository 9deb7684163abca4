"""One folder per identity below `cache_dir`: its name, its lock, and what it remembers.

Layout: `lock` (held with flock while a daemon serves it; its pid inside), `source` (SOURCE as
text), `cache_size` (the default that was chosen at the first mount, bytes), `log/`; the rest is
the daemon's.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mountd.config import MIB, Settings
from mountd.config.credentials import has_s3_keys, is_anonymous
from mountd.config.source import Source
from mountd.errors import MountPointError, StartError
from mountd.mount_table import Mount, is_below, mount_containing, read_mounts
from mountd.remotes.aws_profile import configured_endpoint, profile_named
from mountd.safe_place import why_not_safe

LOCK, SOURCE, CACHE_SIZE, LOG_DIR = "lock", "source", "cache_size", "log"
JOURNAL, QUARANTINE, _README = "journal", "quarantine", "README.txt"
_GONE_AT_RESTART = frozenset(("tmpfs", "ramfs", "overlay", "aufs"))
_AZURE_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT_URL"),
    "oss": ("OSS_ENDPOINT",),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IdleFolder:
    """An identity's folder that no daemon holds."""

    path: Path
    source: str


class CacheHeld(StartError):
    """By the process `pid`, 0 where it doesn't say."""

    def __init__(self, words: str, pid: int) -> None:
        super().__init__(words)
        self.pid = pid


class CacheFolder:
    """The claimed folder of one identity. A context manager; `release` lets another daemon in.

    `volatile`: its file system is gone after a reboot or with the container. `limit_bytes`: the
    configured `cache_size`, or the default remembered from the first mount.
    """

    def __init__(self, path: Path, lock_fd: int, limit_bytes: int) -> None:
        self.path = path
        self.volatile = is_volatile(path)
        self.limit_bytes = limit_bytes
        self._lock_fd = lock_fd

    @classmethod
    def claim(cls, source: Source, settings: Settings, mountpoint: Path) -> Self:
        """Makes and locks the folder of `source`. Warns once in the log where it is volatile.

        Raises StartError naming the pid where another daemon holds it, or where the folder can't
        be made, read or written; MountPointError where it lies inside the mount point, or in
        another mount of ours.
        """
        path = prepare_folder(source, settings, mountpoint)
        lock_fd = _lock(path, source)
        try:
            _remember(path / SOURCE, source.text)
            folder = cls(path, lock_fd, _limit_bytes(path, settings))
        except BaseException:
            os.close(lock_fd)
            raise
        if folder.volatile:
            log.warning(
                "the cache at %s is on a file system that does not survive a restart; "
                "give a cache_dir on a disk or a volume",
                settings.cache_dir,
            )
        return folder

    def release(self) -> None:
        """Unlocks the folder. Harmless a second time."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def prepare_folder(
    source: Source,
    settings: Settings,
    mountpoint: Path,
    *,
    mounts: Callable[[], list[Mount]] = read_mounts,
) -> Path:
    """Makes the folder of `source` (0700) and proves that it can be written; without locking it.

    Raises as `CacheFolder.claim`, except for another daemon.
    """
    # As it is spelt first: a mount that hangs is not to be looked into.
    _check_on_no_mount(os.path.abspath(settings.cache_dir), settings, mounts())
    cache_dir = Path(os.path.realpath(settings.cache_dir))
    _check_on_no_mount(str(cache_dir), settings, mounts())
    if is_below(str(cache_dir), str(mountpoint)):
        raise MountPointError(
            f"cache_dir {settings.cache_dir} lies inside the mount point {mountpoint}; "
            "give another with -o cache_dir=DIR"
        )
    folder = cache_dir / identity_name(source, settings)
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_place(cache_dir)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        _check_folder(folder, found)
        (folder / LOG_DIR).mkdir(mode=0o700, exist_ok=True)
        with os.scandir(folder):
            pass
    except OSError as error:
        raise StartError(_unusable(settings.cache_dir, error)) from error
    if found.st_mode & 0o077:
        os.chmod(folder, 0o700)  # others could look at it, and no more
    return folder


def _check_on_no_mount(path: str, settings: Settings, mounts: Sequence[Mount]) -> None:
    """A cache in a mount of ours would be sent away, and its queue wait for another queue. A volume
    that is a part of one is seen, too."""
    mount = mount_containing(path, mounts)
    if mount is not None and mount.is_ours:
        raise MountPointError(
            f"cache_dir {settings.cache_dir} lies inside the mountd mount at {mount.path} "
            f"({mount.source}); give one on a local disk with -o cache_dir=DIR"
        )


def _check_place(cache_dir: Path) -> None:
    why = why_not_safe(cache_dir)
    if why:
        raise StartError(f"{why}; or give another cache with -o cache_dir=DIR")


def _check_folder(folder: Path, found: os.stat_result) -> None:
    """What lies in it is believed and uploaded, so nobody else may have put it there."""
    why = ""
    if not stat.S_ISDIR(found.st_mode):
        why = "is no directory"
    elif found.st_uid != os.geteuid():
        why = f"belongs to user {found.st_uid}, not to this one"
    elif found.st_mode & 0o022:
        why = f"could be written to by others (mode {stat.S_IMODE(found.st_mode):04o})"
    if why:
        raise StartError(f"{folder} {why}; remove it, or give another cache with -o cache_dir=DIR")


def identity_name(
    source: Source, settings: Settings, environ: Mapping[str, str] = os.environ
) -> str:
    """A readable folder name and a digest of scheme, endpoint, bucket, prefix and account."""
    endpoint = endpoint_of(source, settings, environ)
    account = _account(source, settings.credentials, environ)
    authority = source.authority
    if source.scheme in ("webdav", "webdav+http", "nextcloud"):
        authority = authority.lower()
    identity = [source.scheme, endpoint, authority, source.prefix, account]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{source.scheme}-{authority}-{source.prefix}")
    return f"{readable[:60].strip('-.')}-{digest[:16]}"


def endpoint_of(source: Source, settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """Where an object store's buckets are, without a slash at the end; "": the provider's own."""
    return (settings.endpoint or _endpoint(source, settings, environ)).rstrip("/").lower()


def holder_pid(folder: Path) -> int | None:
    """The pid of the daemon that holds `folder`; 0 where it is held and its pid is unknown."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    finally:
        os.close(fd)
    return None


def check_free(folder: Path, source: Source) -> None:
    """Raises StartError naming the pid where a daemon holds `folder`."""
    pid = holder_pid(folder)
    if pid is not None:
        raise StartError(_held(source, folder, pid))


def idle_folders(cache_dir: Path) -> Iterator[IdleFolder]:
    """The identities below `cache_dir` that no daemon serves, by name."""
    try:
        folders = sorted(path for path in cache_dir.iterdir() if (path / SOURCE).is_file())
    except OSError:
        return
    for folder in folders:
        if holder_pid(folder) is None:
            yield IdleFolder(folder, source_of(folder))


def source_of(folder: Path) -> str:
    """What `folder` is the cache of. Raises OSError."""
    return (folder / SOURCE).read_text(errors="replace").strip()


def is_volatile(path: Path) -> bool:
    """Whether `path` is in memory or in a container's own layer."""
    mount = mount_containing(os.path.realpath(path), read_mounts())
    return mount is not None and mount.fs_type in _GONE_AT_RESTART


def _endpoint(source: Source, settings: Settings, environ: Mapping[str, str]) -> str:
    names = _ENDPOINTS.get(source.scheme, ())
    found = next((environ[name] for name in names if environ.get(name)), "")
    given = settings.credentials
    if source.scheme == "az":
        return _in_connection_string("BlobEndpoint", given, environ) or found
    if source.scheme == "s3" and not found and not (is_anonymous(given) or has_s3_keys(given)):
        return configured_endpoint(profile_named(given.get("profile", ""), environ), environ)
    return found


def _in_connection_string(
    name: str, credentials: Mapping[str, str], environ: Mapping[str, str]
) -> str:
    text = credentials.get("connection_string") or environ.get(
        "AZURE_STORAGE_CONNECTION_STRING", ""
    )
    match = re.search(rf"(?:^|;)\s*{name}=([^;]*)", text, re.IGNORECASE)
    return match[1].strip() if match else ""


def _account(source: Source, credentials: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Whose tree it is, where that isn't said by host and bucket.

    Never what rotates: with a new session token the queue must still find its folder.
    """
    if source.scheme == "az":
        named = credentials.get("account_name") or _in_connection_string(
            "AccountName", credentials, environ
        )
        return named or next((environ[n] for n in _AZURE_ACCOUNTS if environ.get(n)), "")
    if source.scheme == "s3":
        # A profile may name another endpoint. A bare s3:// is one account's buckets.
        profile = profile_named(credentials.get("profile", ""), environ)
        if source.authority or profile:
            return profile
        key = credentials.get("access_key_id") or environ.get("AWS_ACCESS_KEY_ID", "")
        temporary = credentials.get("session_token") or environ.get("AWS_SESSION_TOKEN")
        return "" if temporary else key
    if source.scheme in ("oss", "swift") and not source.authority:
        own = environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID") or environ.get("OSS_ACCESS_KEY_ID", "")
        return credentials.get("access_key_id") or (own if source.scheme == "oss" else "")
    if source.scheme == "gs" and not source.authority:
        return credentials.get("project") or environ.get("GOOGLE_CLOUD_PROJECT", "")
    return credentials.get("user", source.user)


def _lock(folder: Path, source: Source) -> int:
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(_unusable(folder, error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = _pid_in(fd)
        os.close(fd)
        raise CacheHeld(_held(source, folder, pid), pid) from error
    except OSError as error:
        os.close(fd)
        raise StartError(
            f"cannot lock {folder / LOCK}: {error.strerror}; give a cache_dir on a local disk"
        ) from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        _tolerate_full_disk(error, folder)
    return fd


def _pid_in(lock_fd: int) -> int:
    try:
        return int(os.pread(lock_fd, 20, 0) or b"0")
    except ValueError:
        return 0


def _held(source: Source, folder: Path, pid: int) -> str:
    who = f"pid {pid}" if pid else "another daemon"
    return (
        f"{source.text} is already served by {who}, which holds the cache folder {folder}; "
        "mountd status says where: umount that one, or give another with -o cache_dir=DIR"
    )


def _limit_bytes(folder: Path, settings: Settings) -> int:
    if settings.cache_size is not None:
        return settings.cache_size
    try:
        return max(int((folder / CACHE_SIZE).read_text()), MIB)
    except (OSError, ValueError):
        pass  # the first mount, or a file that somebody spoiled: choose anew
    disk = os.statvfs(folder)
    limit = max(disk.f_bavail * disk.f_frsize // 2, MIB)
    _remember(folder / CACHE_SIZE, str(limit))
    return limit


def _remember(path: Path, text: str) -> None:
    """Replaces a small file as a whole. On a full disk the mount works without it."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with open(fresh, "x", encoding="utf-8", errors="surrogateescape", opener=_private) as file:
            file.write(text + "\n")
        os.replace(fresh, path)
    except OSError as error:
        _tolerate_full_disk(error, path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _tolerate_full_disk(error: OSError, folder: Path) -> None:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise StartError(_unusable(folder, error)) from error
    log.warning("the disk of the cache folder %s is full", folder)


def _unusable(path: Path, error: OSError) -> str:
    return (
        f"the cache folder {path} cannot be used: {error.strerror}; "
        "mend it, or give another with -o cache_dir=DIR"
    )


def quarantined_in(folder: Path) -> tuple[str, ...]:
    """What was set aside in a cache folder, as paths below its quarantine. Raises OSError."""
    place = folder / JOURNAL / QUARANTINE
    files = (path for path in place.glob("*/*") if path.name != _README)
    return tuple(sorted(str(path.relative_to(place)) for path in files))
