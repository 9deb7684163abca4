"""The daemons on a Nextcloud account: mountd, and rclone's webdav as its documentation says."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tests.bench.contestants import (
    TUNED_ANYWHERE,
    Contestant,
    Mountd,
    Rclone,
    Target,
    clean_environment,
    our_environment,
    output_of,
    rclone_program,
)
from tests.bench.nextcloud_remote import account_url

# mountd's default here. rclone's is 5 minutes, in which it would see no change at all.
TTL_S = 10
_SAME_TTL = ("--dir-cache-time", f"{TTL_S}s")
# 100 MiB is what the server takes at most; and rclone starts no more than a request in 10 ms on
# any WebDAV server unless it is told to.
_TUNED = (
    *TUNED_ANYWHERE,
    *shlex.split("--webdav-nextcloud-chunk-size 100Mi --webdav-pacer-min-sleep 0s"),
)


@dataclass(frozen=True, slots=True)
class CloudMountd:
    """`mountd` with no option but where the account and the cache are."""

    mountd: Mountd
    peer: bool = False
    linger_s: float = 0.0

    @property
    def name(self) -> str:
        return self.mountd.name

    def missing(self) -> str:
        return self.mountd.missing()

    def version(self) -> str:
        return self.mountd.version()

    def command(self, target: Target) -> list[str]:
        return self.mountd.command_for(f"nextcloud://{target.bucket}@cloud/", target)

    def environment(self, target: Target) -> dict[str, str]:
        return our_environment() | {"MOUNTD_PASSWORD": target.secret_key}


@dataclass(frozen=True, slots=True)
class CloudRclone:
    """`rclone mount` of webdav, vendor nextcloud."""

    rclone: Rclone
    peer: bool = True

    @property
    def name(self) -> str:
        return self.rclone.name

    @property
    def linger_s(self) -> float:
        return self.rclone.linger_s

    def missing(self) -> str:
        return self.rclone.missing()

    def version(self) -> str:
        return f"on Nextcloud: {self.rclone.version()}"

    def command(self, target: Target) -> list[str]:
        return self.rclone.command(replace(target, bucket=""))

    def environment(self, target: Target) -> dict[str, str]:
        settings = {
            "TYPE": "webdav",
            "VENDOR": "nextcloud",
            "URL": account_url(target.endpoint, target.bucket),
            "USER": target.bucket,
            "PASS": output_of([rclone_program(), "obscure", target.secret_key]).strip(),
        }
        named = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in settings.items()}
        return clean_environment() | named


def on_nextcloud(chosen: Sequence[Contestant]) -> list[Contestant]:
    """Of those that are measured, the ones that know Nextcloud, set up for it. In order."""
    cloud: Mapping[str, Contestant] = {
        "rclone": CloudRclone(Rclone("rclone", _SAME_TTL)),
        "rclone-full": CloudRclone(Rclone("rclone-full", ("--vfs-cache-mode", "full", *_SAME_TTL))),
        # The last of two equal flags counts.
        "rclone-tuned": CloudRclone(Rclone("rclone-tuned", (*_TUNED, *_SAME_TTL))),
    }
    found: list[Contestant] = []
    for each in chosen:
        if isinstance(each, Mountd):
            found.append(CloudMountd(each))
        elif each.name in cloud:
            found.append(cloud[each.name])
    return found
