"""PUT, MKCOL, DELETE, LOCK and UNLOCK of files and folders.

A PUT's conditions, rights and quota are looked at when its head has come, and not again; what is
looked at again at the end is whether somebody else is writing the same file (423).
"""

import time
from collections.abc import Callable

from tests.servers.nextcloud.bodies_in import Arrived, UploadReceiver
from tests.servers.nextcloud.conditions import Target, check_conditions, check_if_header
from tests.servers.nextcloud.mtimes import mtime_of
from tests.servers.nextcloud.names import check_new_name
from tests.servers.nextcloud.permissions import check_quota, check_unlocked, need
from tests.servers.nextcloud.places import place_of_url
from tests.servers.nextcloud.properties import oc_id
from tests.servers.nextcloud.reading import shown_etag, target_of
from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Account, Service, Trashed, WriterToken
from tests.servers.nextcloud.tree import Node, UserLock
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response
from tests.servers.s3.xmltext import escape

MAX_ON_DISK = 255
# The server's own name for a file under way: `.ocTransferId`, up to ten digits, `.part`.
PART_SUFFIX = 28
# What a new folder is taken to need of the quota, though it uses nothing of it.
FOLDER_BYTES = 4096


def check_all_conditions(account: Account, request: Request, effects: Effects) -> None:
    """Raises 412, as check_conditions and check_if_header, for whatever the request's path is."""
    if effects.ignore_conditionals:
        return
    check_conditions(request, target_of(account.tree.find(request.key)))
    check_if(account, request)


def check_if(account: Account, request: Request) -> None:
    def resolve(url: str) -> Target | None:
        place = place_of_url(url) if url else None
        return target_of(account.tree.find(request.key if place is None else place.path))

    check_if_header(request, resolve)


def check_may_write(service: Service, account: Account, path: str, request: Request) -> None:
    """Everything but conditions and quota that can refuse a new content at `path`."""
    tree = account.tree
    node = tree.find(path)
    if node is not None and node.is_folder:
        raise refused(409, "PUT is not allowed on non-files.")
    parent, name = tree.parent_of(path, missing=404)
    if node is None:
        check_new_name(name, service.settings)
        need(service, parent, "C")
    else:
        need(service, node, "W")
        check_unlocked(node, account.user)
    if service.settings.release < 30 and len(name.encode()) + PART_SUFFIX > MAX_ON_DISK:
        raise refused(500, "file name too long", "OCP\\Files\\GenericFileException")


def keep_file(
    service: Service, account: Account, path: str, request: Request, arrived: Arrived
) -> tuple[Node, dict[str, str]]:
    """Makes what arrived the content of `path`; the node, and the answer's headers.

    An mtime that is refused (500) is looked at when the content is already there.
    """
    parent, name = account.tree.parent_of(path)
    node = account.tree.write(parent, name, arrived.body)
    mtime_s = mtime_of(request)
    if mtime_s is not None:
        account.tree.touch(node, mtime_s)
    node.checksum = request.headers.get("oc-checksum", "").strip()
    headers = {"OC-FileId": oc_id(node), **arrived.hash_headers}
    if mtime_s is not None:
        headers["X-OC-MTime"] = "accepted"
    service.announce(account.user, [node.id])
    return node, headers


def put(service: Service, account: Account, request: Request, effects: Effects) -> UploadReceiver:
    path = request.key
    if "content-range" in request.headers:
        raise refused(400, "Content-Range on PUT requests are forbidden.")
    if service.settings.auto_mkcol and request.headers.get("x-nc-webdav-auto-mkcol") == "1":
        account.tree.make_folders(path.rpartition("/")[0])
    check_all_conditions(account, request, effects)
    check_may_write(service, account, path, request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and "transfer-encoding" not in request.headers:
        check_quota(service, account.user, int(length))
    token = service.begin_writing(account.user, path)

    def commit(arrived: Arrived) -> Response:
        if service.writers(account.user, path) > 1:
            raise refused(423, f'"{path}" is locked')
        _hold(service, token, effects)
        existed = account.tree.find(path) is not None
        node, headers = keep_file(service, account, path, request, arrived)
        headers["ETag"] = shown_etag(service, request, node.etag)
        headers["OC-ETag"] = f'"{node.etag}"'
        return Response(204 if existed else 201, headers)

    return UploadReceiver(service.spool, request, commit)


def _hold(service: Service, token: WriterToken, effects: Effects) -> None:
    """Keeps the file locked while the ordered latency passes: that stands for the server's work."""
    if effects.latency_ms > 2:
        when_s = time.monotonic() + effects.latency_ms / 1000 - 0.002
        service.timers.call_at(when_s, lambda: _let_go(token))


def _let_go(token: WriterToken) -> None:
    """The timer's reference was the last one."""


def mkcol(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    path = request.key
    check_all_conditions(account, request, effects)
    parent, name = account.tree.parent_of(path)
    if not name or name in parent.entries():
        raise refused(405, "The resource you tried to create already exists")
    check_new_name(name, service.settings)
    need(service, parent, "C")
    check_quota(service, account.user, FOLDER_BYTES)
    folder = account.tree.make_folder(parent, name)
    service.announce(account.user, [folder.id])
    return Response(201, {"OC-FileId": oc_id(folder)})


def delete(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    node = account.tree.require(request.key)
    check_all_conditions(account, request, effects)
    need(service, node, "D")
    check_unlocked(node, account.user)
    remove(service, account, node)
    service.announce(account.user, [node.id])
    return Response(204)


def remove(service: Service, account: Account, node: Node) -> None:
    """To the trash, where there is one."""
    original = node.path()
    account.tree.detach(node)
    if service.settings.trashbin:
        now_s = int(time.time())
        name = f"{node.name}.d{now_s}"
        while name in account.trash:
            now_s += 1
            name = f"{node.name}.d{now_s}"
        account.trash[name] = Trashed(name, node, original, now_s)


def lock(service: Service, account: Account, request: Request) -> Response:
    """The user locks of files_lock; without the app SabreDAV knows no LOCK."""
    if not service.settings.files_lock:
        raise refused(
            501,
            f"There was no plugin in the system that was willing to handle {request.method}",
        )
    node = account.tree.require(request.key)
    check_unlocked(node, account.user)
    locking = request.method == "LOCK"
    node.lock = UserLock(account.user, account.display_name, 0) if locking else None
    account.tree.changed(node)
    if node.lock is None:
        return Response(200, {"Content-Type": "application/xml; charset=utf-8"})
    text = (
        '<?xml version="1.0"?>\n<d:prop xmlns:d="DAV:" xmlns:nc="http://nextcloud.org/ns">'
        f"<nc:lock>1</nc:lock><nc:lock-owner>{escape(account.user)}</nc:lock-owner></d:prop>"
    )
    return Response(200, {"Content-Type": "application/xml; charset=utf-8"}, text.encode())


Act = Callable[[Service, Account, Request, Effects], Response]
