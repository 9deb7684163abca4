"""MOVE and COPY of files and folders, with the order of checks that SabreDAV has."""

from dataclasses import dataclass

from tests.servers.nextcloud.names import check_new_name
from tests.servers.nextcloud.permissions import check_quota, check_unlocked, need
from tests.servers.nextcloud.places import place_of_url
from tests.servers.nextcloud.properties import oc_id
from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Account, Service
from tests.servers.nextcloud.tree import Node
from tests.servers.nextcloud.writing import check_all_conditions, remove
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response


@dataclass(frozen=True, slots=True)
class Destination:
    path: str
    parent: Node
    name: str
    existing: Node | None


def destination_of(service: Service, account: Account, request: Request) -> Destination:
    """Raises 400 without a usable header, 409 without a parent, 412 for Overwrite: F."""
    given = request.headers.get("destination")
    if not given:
        raise refused(400, "The destination header was not supplied")
    place = place_of_url(given)
    if place.tree != "files" or place.user not in ("", account.user):
        raise refused(403, f"{given} is out of base uri")
    overwrite = request.headers.get("overwrite", "T").upper()
    if overwrite not in ("T", "F"):
        raise refused(400, "The HTTP Overwrite header should be either T or F")
    parent = account.tree.find(place.path.rpartition("/")[0])
    if parent is None:
        raise refused(409, "The destination node is not found")
    if not parent.is_folder:
        raise refused(415, "The destination node is not a collection")
    existing = account.tree.find(place.path)
    if existing is not None and overwrite == "F":
        raise refused(
            412, "The destination node already exists, and the overwrite header is set to false"
        )
    return Destination(place.path, parent, place.path.rpartition("/")[2], existing)


def move(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    """Keeps the id of what is moved; what was at the destination goes to the trash before."""
    source = account.tree.require(request.key)
    check_all_conditions(account, request, effects)
    to = _checked(service, account, request)
    check_unlocked(source, account.user)
    need(service, source, "N" if source.parent is to.parent else "D")
    if to.existing is not None:
        remove(service, account, to.existing)
    account.tree.detach(source)
    account.tree.attach(source, to.parent, to.name)
    service.announce(account.user, [source.id])
    return _done(source, to)


def copy(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    source = account.tree.require(request.key)
    check_all_conditions(account, request, effects)
    to = _checked(service, account, request)
    check_quota(service, account.user, source.size)
    if to.existing is not None:
        remove(service, account, to.existing)
    made = account.tree.copy(source, to.parent, to.name)
    service.announce(account.user, [made.id])
    return Response(201 if to.existing is None else 204, {"OC-FileId": oc_id(made)})


def _checked(service: Service, account: Account, request: Request) -> Destination:
    to = destination_of(service, account, request)
    if to.path == request.key:
        raise refused(403, "Source and destination uri are identical.")
    if to.path.startswith(request.key + "/"):
        raise refused(
            409, "The destination may not be part of the same subtree as the source path."
        )
    if request.key.startswith(to.path + "/"):
        raise refused(403, "cannot be moved to its parent")
    check_new_name(to.name, service.settings)
    need(service, to.parent, "C")
    if to.existing is not None:
        check_unlocked(to.existing, account.user)
    return to


def _done(node: Node, to: Destination) -> Response:
    headers = {"OC-FileId": oc_id(node)}
    if not node.is_folder:
        headers |= {"ETag": f'"{node.etag}"', "OC-ETag": f'"{node.etag}"'}
    return Response(201 if to.existing is None else 204, headers)
