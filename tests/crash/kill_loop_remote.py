"""The remote after a drain: the same files as on the mount, and nothing else."""

import hashlib
from collections.abc import Callable, Iterable, Mapping

from tests.crash.kill_loop_processes import WorkerProcess
from tests.servers.s3.launch import S3Server

MOST_NAMED = 8
STRANGE = ("(conflict ", ".mountd-tmp")
# What is left where the daemon is killed while it proves what the server enforces. Mounts hide it;
# as another machine may be proving right now, it is removed when it is a day old.
PROBE = ".mountd-probe-"

Digests = Mapping[str, tuple[int, str] | None]  # by key; None for a directory


def digests_seen_by(workers: Iterable[WorkerProcess]) -> Digests:
    """What each sees of its part of the mount now."""
    found: dict[str, tuple[int, str] | None] = {}
    for worker in workers:
        worker.ask("digests")
        below = worker.answer()["digests"]
        found[worker.name] = None
        found |= {f"{worker.name}/{path}": digest for path, digest in below.items()}
    return found


def differences(server: S3Server, bucket: str, wanted: Digests) -> list[str]:
    """In words; a directory has a marker or something in it."""
    return differences_in(server.keys(bucket), lambda key: server.read(bucket, key), wanted)


def differences_in(
    there: Iterable[str], read: Callable[[str], bytes], wanted: Digests
) -> list[str]:
    """As `differences`."""
    keys = {key for key in there if not key.startswith(PROBE)}
    found = [f"{key!r} is on the remote" for key in keys if any(s in key for s in STRANGE)]
    files = {key for key, digest in wanted.items() if digest is not None}
    folders = {key + "/" for key, digest in wanted.items() if digest is None}
    missing, extra = sorted(files - keys), sorted(keys - files - folders)
    if missing:
        found.append(f"{len(missing)} files are not on the remote: {missing[:MOST_NAMED]}")
    if extra:
        found.append(f"{len(extra)} objects are nothing on the mount: {extra[:MOST_NAMED]}")
    gone = [folder for folder in folders if not any(key.startswith(folder) for key in keys)]
    if gone:
        found.append(f"{len(gone)} directories have nothing on the remote: {gone[:MOST_NAMED]}")
    for key in sorted(files & keys):
        data = read(key)
        digest = len(data), hashlib.sha256(data).hexdigest()
        if digest != tuple(wanted[key] or ()):
            found.append(f"{key}: other bytes on the remote ({len(data)}; {wanted[key]} wanted)")
    return found
