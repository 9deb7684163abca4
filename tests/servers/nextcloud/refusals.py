"""Errors as SabreDAV and Nextcloud say them."""

from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.xmltext import escape

_CLASSES = {
    400: "Sabre\\DAV\\Exception\\BadRequest",
    401: "Sabre\\DAV\\Exception\\NotAuthenticated",
    403: "Sabre\\DAV\\Exception\\Forbidden",
    404: "Sabre\\DAV\\Exception\\NotFound",
    405: "Sabre\\DAV\\Exception\\MethodNotAllowed",
    409: "Sabre\\DAV\\Exception\\Conflict",
    412: "Sabre\\DAV\\Exception\\PreconditionFailed",
    415: "Sabre\\DAV\\Exception\\UnsupportedMediaType",
    416: "Sabre\\DAV\\Exception\\RequestedRangeNotSatisfiable",
    423: "OCA\\DAV\\Connector\\Sabre\\Exception\\FileLocked",
    429: "OCA\\DAV\\Connector\\Sabre\\Exception\\TooManyRequests",
    501: "Sabre\\DAV\\Exception\\NotImplemented",
    503: "Sabre\\DAV\\Exception\\ServiceUnavailable",
    507: "Sabre\\DAV\\Exception\\InsufficientStorage",
}
# These come from the web server in front, which knows no XML.
_FROM_THE_PROXY = frozenset((502, 504))


def refused(status: int, message: str = "", exception: str = "") -> S3Error:
    """What ends a request; `exception` is the PHP class where it isn't the usual one."""
    return S3Error(status, exception or _CLASSES.get(status, "Exception"), message)


def error_response(error: S3Error, request: Request | None) -> Response:
    status = error.status
    if status in _FROM_THE_PROXY:
        text = f"<html><body><h1>{status} from the proxy</h1></body></html>"
        return Response(status, {"Content-Type": "text/html"} | error.headers, text.encode())
    # The knobs order errors by S3's names.
    is_php = "\\" in error.code or error.code in ("Error", "InvalidArgumentException")
    name = error.code if is_php else _CLASSES.get(status, "Exception")
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<d:error xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns">\n'
        f"  <s:exception>{escape(name)}</s:exception>\n"
        f"  <s:message>{escape(error.message)}</s:message>\n</d:error>\n"
    )
    headers = {"Content-Type": "application/xml; charset=utf-8"} | error.headers
    return Response(status, headers, text.encode("utf-8", "surrogateescape"))
