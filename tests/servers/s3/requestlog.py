"""The log of S3 requests: one small record per request, made at its arrival, never formatted here.

`/_control` requests are not logged. A record is complete before its client can have seen the last
byte of the answer, so a count taken after the answer is exact.
"""

from collections import deque

MAX_RECORDS = 2_000_000


class LogRecord:
    """Times are CLOCK_MONOTONIC, which all processes of the machine share.

    `status` 0: never answered (hung, reset, lost or still under way); `bytes_sent` counts body
    bytes given to the kernel.
    """

    __slots__ = (
        "arrived_s",
        "bucket",
        "bytes_received",
        "bytes_sent",
        "connection_id",
        "done_s",
        "key",
        "method",
        "op",
        "query",
        "range",
        "status",
    )

    def __init__(
        self,
        arrived_s: float,
        connection_id: int,
        method: str,
        op: str,
        bucket: str,
        key: str,
        query: str,
        byte_range: str,
    ) -> None:
        self.arrived_s = arrived_s
        self.connection_id = connection_id
        self.method = method
        self.op = op
        self.bucket = bucket
        self.key = key
        self.query = query
        self.range = byte_range
        self.status = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.done_s = 0.0

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


class RequestLog:
    def __init__(self) -> None:
        self.records: deque[LogRecord] = deque(maxlen=MAX_RECORDS)

    def clear(self) -> None:
        self.records.clear()
