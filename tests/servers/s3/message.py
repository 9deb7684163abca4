"""HTTP messages: a request head parsed once, and a response before faults and framing."""

from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from urllib.parse import unquote_plus, unquote_to_bytes

from tests.servers.s3.bodies import Body

STATUS_TEXT = {
    101: "Switching Protocols",
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    207: "Multi-Status",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    415: "Unsupported Media Type",
    416: "Requested Range Not Satisfiable",
    423: "Locked",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Slow Down",
    504: "Gateway Timeout",
    507: "Insufficient Storage",
}


class S3Error(Exception):
    """Ends a request with an S3 error document; `detail` adds elements to it."""

    def __init__(
        self, status: int, code: str, message: str = "", detail: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message or code
        self.detail = detail or {}
        self.headers: dict[str, str] = {}


class BadMessage(Exception):
    """What arrived is not HTTP/1.1; the connection is answered 400 and closed."""


class Request:
    """One request head. `bucket` and `key` are decoded; the raw spellings stay for the signature.

    `query` holds decoded names and values (a name without `=` has the value ""). `upload` is the
    finished body's receiver where the request had a body.
    """

    __slots__ = (
        "arrived_s",
        "bucket",
        "connection_id",
        "headers",
        "key",
        "method",
        "op",
        "query",
        "raw_path",
        "raw_query",
        "signature",
    )

    def __init__(self, method: str, target: str, headers: dict[str, str]) -> None:
        self.method = method
        self.headers = headers
        self.raw_path, _, self.raw_query = target.partition("?")
        self.query = parse_query(self.raw_query) if self.raw_query else {}
        self.bucket, self.key = split_path(self.raw_path)
        self.op = ""
        self.connection_id = 0
        self.arrived_s = 0.0
        # What the seed signature of a signed aws-chunked body is checked with.
        self.signature: object | None = None


def parse_head(head: bytes) -> Request:
    """Parses a head without its blank line. Raises BadMessage, or S3Error for a bad key."""
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError as error:
        raise BadMessage(lines[0][:100]) from error
    if version != "HTTP/1.1":
        raise BadMessage(version)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadMessage(line[:100])
        name = name.lower()
        value = value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return Request(method, target, headers)


def split_path(raw_path: str) -> tuple[str, str]:
    """`/bucket/key` -> (bucket, key), percent-decoded; the key may hold or start with slashes."""
    raw_bucket, _, raw_key = raw_path[1:].partition("/")
    return decode_path(raw_bucket), decode_path(raw_key)


def decode_path(raw: str) -> str:
    if "%" not in raw and raw.isascii():
        return raw
    try:
        return unquote_to_bytes(raw.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.") from error


def parse_query(raw: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for pair in raw.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            query[unquote_plus(name)] = unquote_plus(value)
    return query


class Response:
    """Status, headers and body as S3 means them; faults change a response on its way out.

    `total_size` and `start` say which bytes of which size a GET's body is, for the faults.
    `close` ends the connection after the response; `delay_s` is work that the server still has to
    do before it, which goes on top of what the knobs order.
    """

    __slots__ = ("body", "close", "delay_s", "headers", "start", "status", "total_size")

    def __init__(
        self, status: int, headers: dict[str, str] | None = None, body: bytes | Body = b""
    ) -> None:
        self.status = status
        self.headers = {} if headers is None else headers
        self.body = body
        self.start = 0
        self.total_size = 0
        self.close = False
        self.delay_s = 0.0


@lru_cache(maxsize=65536)
def http_date(epoch_s: int) -> str:
    return formatdate(epoch_s, usegmt=True)


def parse_http_date(text: str) -> float | None:
    """Seconds since the epoch, or None for what is no date (such a condition is ignored)."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
