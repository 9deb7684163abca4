"""What a request's path means: which tree, whose, and where in it."""

import re
from dataclasses import dataclass
from functools import lru_cache

from tests.servers.nextcloud.names import normal
from tests.servers.s3.message import Request, decode_path

CONTROL = "_control"
UNKNOWN = "Unknown"
_SLASHES = re.compile("/+")


@dataclass(frozen=True, slots=True)
class Place:
    """`tree`: files, uploads, trashbin, bulk, ocs, login, status, _control, or "". `path` is
    decoded, NFC, and without slashes at its ends."""

    tree: str
    user: str = ""
    path: str = ""


@lru_cache(maxsize=4096)
def place_of(raw_path: str) -> Place:
    """Of a request's path, still percent-encoded. Raises S3Error 400 where it is no UTF-8."""
    path = normal(_SLASHES.sub("/", decode_path(raw_path)).strip("/"))
    first, _, rest = path.partition("/")
    if first == CONTROL:
        return Place(CONTROL, path=rest)
    if path == "status.php":
        return Place("status")
    if first == "ocs":
        return Place("ocs", path=rest.partition("/")[2])
    if path.startswith("index.php/login/v2"):
        return Place("login", path=path.removeprefix("index.php/login/v2").strip("/"))
    if path == "login/v2/poll":
        return Place("login", path="poll")
    if path.startswith("remote.php/webdav"):
        return Place("files", path=path.removeprefix("remote.php/webdav").strip("/"))
    if path.startswith("remote.php/dav/"):
        return _dav_place(path.removeprefix("remote.php/dav/"))
    return Place("")


def _dav_place(path: str) -> Place:
    tree, _, rest = path.partition("/")
    user, _, inner = rest.partition("/")
    if tree in ("files", "uploads", "trashbin") and user:
        return Place(tree, user, inner)
    return Place("bulk") if path == "bulk" else Place("")


def place_of_url(url: str) -> Place:
    """Of a Destination, or of a URL in an If header."""
    if "://" in url:
        url = "/" + url.partition("://")[2].partition("/")[2]
    return place_of(url)


_FILES = {
    method: method.capitalize()
    for method in (
        *("PROPFIND", "GET", "HEAD", "PUT", "MKCOL", "DELETE", "MOVE", "COPY", "PROPPATCH"),
        *("LOCK", "UNLOCK", "OPTIONS"),
    )
}
_UPLOADS = {
    "MKCOL": "MakeUpload",
    "PUT": "PutChunk",
    "MOVE": "Assemble",
    "PROPFIND": "ListUpload",
    "DELETE": "AbortUpload",
}


def operation_name(request: Request, place: Place) -> str:
    """The name that rules and the log use."""
    method = request.method
    if place.tree == "files":
        return _FILES.get(method, UNKNOWN)
    if place.tree == "uploads":
        return _UPLOADS.get(method, UNKNOWN)
    if place.tree == "trashbin":
        return "Trash" + _FILES.get(method, UNKNOWN)
    if place.tree == "bulk":
        return "Bulk" if method == "POST" else UNKNOWN
    if place.tree == "ocs":
        return {"cloud/capabilities": "Capabilities", "cloud/user": "User"}.get(place.path, UNKNOWN)
    if place.tree == "login":
        return "LoginPoll" if place.path == "poll" else "Login"
    return {"status": "Status"}.get(place.tree, UNKNOWN)
