"""/remote.php/dav/trashbin/USER/trash: what was deleted, restoring and emptying it."""

from tests.servers.nextcloud import davxml
from tests.servers.nextcloud.places import place_of_url
from tests.servers.nextcloud.properties import described, is_minimal
from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Account, Service, Trashed
from tests.servers.s3.message import Request, Response
from tests.servers.s3.xmltext import escape


def listing(service: Service, account: Account, request: Request, body: bytes) -> Response:
    if request.key != "trash":
        raise refused(404, request.key)
    asked = davxml.asked_properties(body)
    minimal = is_minimal(request)
    base = f"/remote.php/dav/trashbin/{davxml.encoded(account.user)}/trash"
    top = "<d:resourcetype><d:collection/></d:resourcetype>"
    entries = [davxml.entry(f"{base}/", top if "d:resourcetype" in asked else "", ())]
    if request.headers.get("depth") != "0":
        for each in account.trash.values():
            own = _own(each)
            rest = [name for name in asked if name not in own]
            found, missing = described(service, account, each.node, rest)
            found += "".join(f"<{name}>{own[name]}</{name}>" for name in asked if name in own)
            slash = "/" if each.node.is_folder else ""
            href = f"{base}/{davxml.encoded(each.name)}{slash}"
            entries.append(davxml.entry(href, found, () if minimal else missing))
    return davxml.multistatus(entries)


def _own(trashed: Trashed) -> dict[str, str]:
    return {
        "nc:trashbin-filename": escape(trashed.node.name),
        "nc:trashbin-original-location": escape(trashed.original),
        "nc:trashbin-deletion-time": str(trashed.deleted_s),
    }


def restore(service: Service, account: Account, request: Request) -> Response:
    """MOVE to trashbin/USER/restore/NAME puts it back where it was, or at the root."""
    trashed = account.trash.get(request.key.removeprefix("trash/"))
    if trashed is None:
        raise refused(404, request.key)
    to = place_of_url(request.headers.get("destination", ""))
    if to.tree != "trashbin" or not to.path.startswith("restore/"):
        raise refused(403, "only to restore/")
    tree = account.tree
    folder = tree.find(trashed.original.rpartition("/")[0])
    if folder is None or not folder.is_folder:
        folder = tree.root
    name = trashed.node.name
    while name in folder.entries():
        stem, dot, extension = name.rpartition(".")
        name = f"{stem} (restored){dot}{extension}" if dot else f"{name} (restored)"
    del account.trash[trashed.name]
    tree.attach(trashed.node, folder, name)
    return Response(201)


def remove(service: Service, account: Account, request: Request) -> Response:
    """One for good, or all."""
    if request.key == "trash":
        account.trash.clear()
        return Response(204)
    if account.trash.pop(request.key.removeprefix("trash/"), None) is None:
        raise refused(404, request.key)
    return Response(204)
