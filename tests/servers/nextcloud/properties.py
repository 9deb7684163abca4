"""Each property of a file or a folder, as XML; PROPFIND and PROPPATCH."""

import json
import time
from collections.abc import Callable, Iterable

from tests.servers.nextcloud import davxml
from tests.servers.nextcloud.mtimes import sane_mtime
from tests.servers.nextcloud.permissions import check_unlocked, free_bytes, permissions
from tests.servers.nextcloud.service import INSTANCE_ID, Account, Service
from tests.servers.nextcloud.tree import Node
from tests.servers.s3.message import STATUS_TEXT, Request, Response, http_date
from tests.servers.s3.xmltext import escape

Value = str | None
Getter = Callable[[Service, Account, Node], Value]


def oc_id(node: Node) -> str:
    """oc:id and the header OC-FileId; oc:fileid is the number alone."""
    return f"{node.id:08d}{INSTANCE_ID}"


def _resource_type(service: Service, account: Account, node: Node) -> Value:
    return "<d:collection/>" if node.is_folder else ""


def _length(service: Service, account: Account, node: Node) -> Value:
    return None if node.is_folder else str(node.size)


def _content_type(service: Service, account: Account, node: Node) -> Value:
    return None if node.is_folder else "application/octet-stream"


def _available(service: Service, account: Account, node: Node) -> Value:
    return str(free_bytes(service, account.user)) if node.is_folder else None


def _used(service: Service, account: Account, node: Node) -> Value:
    if not node.is_folder:
        return None
    return str(node.size + (account.trashed_bytes() if node.parent is None else 0))


def _checksums(service: Service, account: Account, node: Node) -> Value:
    if not node.checksum:
        return None
    return "".join(f"<oc:checksum>{escape(each)}</oc:checksum>" for each in node.checksum.split())


def _upload_time(service: Service, account: Account, node: Node) -> Value:
    return None if node.is_folder else str(node.uploaded_s)


def _mount_root(service: Service, account: Account, node: Node) -> Value:
    return "true" if node.mount_type else "false"


def _children(service: Service, *, folders: bool, node: Node) -> Value:
    if node.children is None:
        return None
    return str(sum(each.is_folder == folders for each in node.children.values()))


def _lock(name: str) -> Getter:
    def value(service: Service, account: Account, node: Node) -> Value:
        if not service.settings.files_lock:
            return None
        lock = node.lock
        if lock is None:
            return "" if name == "lock" else None
        return escape(
            {
                "lock": "1",
                "lock-owner": lock.owner,
                "lock-owner-displayname": lock.owner_name,
                "lock-owner-type": "0",
                "lock-owner-editor": "",
                "lock-time": str(lock.since_s),
                "lock-timeout": str(lock.timeout_s),
                "lock-token": lock.token,
            }[name]
        )

    return value


_LOCK_NAMES = (
    *("lock", "lock-owner", "lock-owner-displayname", "lock-owner-type", "lock-owner-editor"),
    *("lock-time", "lock-timeout", "lock-token"),
)
_GETTERS: dict[str, Getter] = {
    "d:getetag": lambda service, account, node: f"&quot;{node.etag}&quot;",
    "d:getlastmodified": lambda service, account, node: http_date(node.mtime_s),
    "d:getcontentlength": _length,
    "d:getcontenttype": _content_type,
    "d:resourcetype": _resource_type,
    "d:displayname": lambda service, account, node: escape(node.name or account.user),
    "d:creationdate": lambda service, account, node: time.strftime(
        "%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(node.created_s)
    ),
    "d:quota-available-bytes": _available,
    "d:quota-used-bytes": _used,
    "oc:id": lambda service, account, node: oc_id(node),
    "oc:fileid": lambda service, account, node: str(node.id),
    "oc:size": lambda service, account, node: str(node.size),
    "oc:permissions": lambda service, account, node: permissions(service, node),
    "oc:checksums": _checksums,
    "oc:owner-id": lambda service, account, node: escape(account.user),
    "oc:owner-display-name": lambda service, account, node: escape(account.display_name),
    "oc:favorite": lambda service, account, node: "0",
    "nc:mount-type": lambda service, account, node: node.mount(),
    "nc:is-mount-root": _mount_root,
    "nc:has-preview": lambda service, account, node: "false",
    "nc:creation_time": lambda service, account, node: str(node.created_s),
    "nc:upload_time": _upload_time,
    "nc:hidden": lambda service, account, node: "false",
    "nc:contained-folder-count": lambda service, account, node: _children(
        service, folders=True, node=node
    ),
    "nc:contained-file-count": lambda service, account, node: _children(
        service, folders=False, node=node
    ),
    "nc:share-attributes": lambda service, account, node: json.dumps([]),
    **{f"nc:{name}": _lock(name) for name in _LOCK_NAMES},
}


def is_minimal(request: Request) -> bool:
    """Whether properties that aren't there shall be left out instead of listed with a 404."""
    headers = request.headers
    return "return=minimal" in headers.get("prefer", "") or headers.get("brief") == "t"


def described(
    service: Service, account: Account, node: Node, asked: Iterable[str]
) -> tuple[str, list[str]]:
    """The XML of what there is, and the names of what there isn't."""
    found: list[str] = []
    missing: list[str] = []
    for name in asked:
        getter = _GETTERS.get(name)
        value = None if getter is None else getter(service, account, node)
        if value is None:
            missing.append(name)
        else:
            found.append(f"<{name}>{value}</{name}>" if value else f"<{name}/>")
    return "".join(found), missing


def propfind(service: Service, account: Account, request: Request, body: bytes) -> Response:
    """Depth 0 or 1; infinity, also as the default, is taken for 1 as SabreDAV does."""
    node = account.tree.require(request.key)
    asked = davxml.asked_properties(body)
    minimal = is_minimal(request)
    base = request.raw_path.rstrip("/")
    prefix = base[: base.find("/remote.php")] if "/remote.php" in base else ""
    legacy = "/remote.php/webdav" in base
    root = (
        "/remote.php/webdav" if legacy else f"/remote.php/dav/files/{davxml.encoded(account.user)}"
    )
    path = davxml.encoded(node.path())
    href = f"{prefix}{root}/{path}" if path else f"{prefix}{root}"
    nodes = [(href, node)]
    if request.headers.get("depth") != "0":
        nodes += [
            (f"{href}/{davxml.encoded(child.name)}", child)
            for child in (node.children or {}).values()
        ]
    entries = []
    for place, each in nodes:
        found, missing = described(service, account, each, asked)
        slash = "/" if each.is_folder else ""
        entries.append(davxml.entry(place + slash, found, () if minimal else missing))
    return davxml.multistatus(entries)


def empty_folder(request: Request, body: bytes) -> Response:
    """What one sees of somebody else's files."""
    asked = davxml.asked_properties(body)
    known = "<d:resourcetype><d:collection/></d:resourcetype>"
    found = known if "d:resourcetype" in asked else ""
    missing = [name for name in asked if name != "d:resourcetype"]
    shown = () if is_minimal(request) else missing
    return davxml.multistatus([davxml.entry(request.raw_path.rstrip("/") + "/", found, shown)])


def proppatch(service: Service, account: Account, request: Request, body: bytes) -> Response:
    """d:lastmodified (not getlastmodified), creation_time and favorite can be set; others are kept
    nowhere but answered 200, as custom properties are."""
    node = account.tree.require(request.key)
    check_unlocked(node, account.user)
    patch = davxml.asked_changes(body)
    empty = [name for name in patch.set if name in _TIMES and patch.set[name] in ("", "0")]
    denied = [name for name in patch.set if name in _PROTECTED or name in empty]
    if denied:
        return _patched(request, {name: 403 if name in denied else 424 for name in patch.set})
    for name, text in patch.set.items():
        if name in _TIMES:
            seconds = sane_mtime(text)
            if name == "nc:creation_time":
                node.created_s = seconds
            else:
                if "W" not in permissions(service, node) and not node.is_folder:
                    # Measured on a share that may only be read: a 200, in the server's list alone.
                    node.mtime_s = seconds
                    continue
                if node.mtime_s != seconds:
                    node.checksum = ""  # measured: the server takes it for another content
                account.tree.touch(node, seconds)
                service.announce(account.user, [node.id])
    if is_minimal(request):
        return Response(204, {"Content-Type": "text/html; charset=UTF-8"})
    return _patched(request, dict.fromkeys((*patch.set, *patch.removed), 200))


_TIMES = ("d:lastmodified", "nc:creation_time")
_PROTECTED = frozenset(
    (
        "oc:id",
        "oc:fileid",
        "oc:permissions",
        "oc:size",
        "oc:checksums",
        "d:getcontentlength",
        "d:getlastmodified",
    )
)


def _patched(request: Request, outcome: dict[str, int]) -> Response:
    stats = "".join(
        f"<d:propstat><d:prop>{davxml.empty_element(name)}</d:prop>"
        f"<d:status>HTTP/1.1 {status} {STATUS_TEXT.get(status, '')}</d:status></d:propstat>"
        for name, status in outcome.items()
    )
    text = f"<d:response><d:href>{request.raw_path}</d:href>{stats}</d:response>"
    return davxml.multistatus([text])
