"""The log of requests: one small record per request, made at its arrival."""

from tests.servers.s3.message import Request

# What a test may want to see of a request besides its first line.
LOGGED_HEADERS = (
    *("depth", "destination", "if", "if-match", "if-none-match", "if-range", "overwrite", "range"),
    *("oc-checksum", "oc-total-length", "x-oc-mtime", "x-hash", "content-length"),
    *("transfer-encoding", "accept", "x-nc-webdav-auto-mkcol", "user-agent"),
)


class LogRecord:
    """Times are CLOCK_MONOTONIC, which all processes of the machine share.

    `tree` is "files", "uploads", "trashbin", ... (see `places.Place`) and `path` what comes after
    the user in it. `status` 0: never answered (hung, reset, lost or still under way).
    """

    __slots__ = (
        "arrived_s",
        "bytes_received",
        "bytes_sent",
        "connection_id",
        "done_s",
        "headers",
        "method",
        "op",
        "path",
        "query",
        "status",
        "tree",
    )

    def __init__(self, request: Request) -> None:
        self.arrived_s = request.arrived_s
        self.connection_id = request.connection_id
        self.method = request.method
        self.op = request.op
        self.tree = request.bucket
        self.path = request.key
        self.query = request.raw_query
        given = request.headers
        self.headers = {name: given[name] for name in LOGGED_HEADERS if name in given}
        self.status = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.done_s = 0.0

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}
