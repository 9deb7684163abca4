"""The Nextcloud-shaped server as a remote of the bench."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from tests.servers.nextcloud.launch import LogEntry as CloudEntry
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import LogEntry

_DONE = (200, 201, 204, 206)
_S3_NAMES: Final = {
    "Get": "GetObject",
    "Put": "PutObject",
    "Assemble": "CompleteMultipartUpload",
    "Delete": "DeleteObject",
}


@dataclass(frozen=True, slots=True)
class NextcloudRemote:
    """Each bucket is an account: so a path in a mount is the whole path that contents follow from.

    The accounts share `server`'s password. One contestant works at a time, so the log asks nobody
    whose a request was. Bulk uploads are not understood: nobody measured here sends any.
    """

    server: NextcloudServer
    region: str = ""
    access_key: str = ""

    @property
    def endpoint(self) -> str:
        return self.server.url

    @property
    def secret_key(self) -> str:
        return self.server.password

    def prepare(self) -> None:
        """What rows leave behind is removed, and must not fill the spool as trash."""
        self.server.configure(trashbin=False)

    def seed(self, bucket: str, **plan: Any) -> int:
        self.server.add_account(bucket, self.server.password)
        return self.server.seed(user=bucket, paths=plan.pop("keys", []), **plan)

    def keys(self, bucket: str) -> list[str]:
        return [path for path in self.server.tree(user=bucket) if not path.endswith("/")]

    def delete(self, bucket: str, key: str) -> None:
        self.server.delete(key, user=bucket)

    def contents_url(self, bucket: str, key: str) -> str:
        return f"{self.server.control_url}/file?{urlencode({'user': bucket, 'path': key})}"

    def set_knobs(self, **knobs: Any) -> None:
        self.server.set_knobs(**knobs)

    def clear_log(self) -> None:
        self.server.clear_log()

    def log(self, *, op: str = "", bucket: str = "") -> list[LogEntry]:
        entries = (in_s3_words(entry, bucket) for entry in self.server.log())
        return [entry for entry in entries if op in ("", entry.op)]

    def cpu_seconds(self) -> float:
        return self.server.cpu_seconds()


def in_s3_words(entry: CloudEntry, bucket: str) -> LogEntry:
    """The assembly of an upload is about the file that it makes; what S3 has no name for keeps
    its own."""
    key = entry.path
    if entry.op == "Assemble":
        key = _path_in(entry.headers.get("destination", ""))
    return LogEntry(
        arrived_s=entry.arrived_s,
        connection_id=entry.connection_id,
        method=entry.method,
        op=_S3_NAMES.get(entry.op, entry.op),
        bucket=bucket,
        key=key,
        query=entry.query,
        range=entry.headers.get("range", ""),
        status=200 if entry.status in _DONE else entry.status,
        bytes_sent=entry.bytes_sent,
        bytes_received=entry.bytes_received,
        done_s=entry.done_s,
    )


def _path_in(destination: str) -> str:
    """Of http://HOST/remote.php/dav/files/USER/PATH."""
    return unquote(destination.partition("/dav/files/")[2].partition("/")[2])


def account_url(endpoint: str, user: str) -> str:
    return f"{endpoint}/remote.php/dav/files/{quote(user)}"
