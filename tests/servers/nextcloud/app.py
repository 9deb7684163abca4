"""From a request to what answers it: which place, who may, which operation."""

from collections.abc import Callable

from tests.servers.nextcloud import bulk, moving, ocs, properties, trash, uploads, writing
from tests.servers.nextcloud.access import account_of, brute_force_sleep_s, login_flow
from tests.servers.nextcloud.control import Control
from tests.servers.nextcloud.places import CONTROL, UNKNOWN, Place, operation_name, place_of
from tests.servers.nextcloud.reading import read
from tests.servers.nextcloud.refusals import error_response, refused
from tests.servers.nextcloud.requestlog import LogRecord
from tests.servers.nextcloud.service import Account, Service
from tests.servers.s3.connection import Record
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.receivers import BodyReceiver, MemoryReceiver

PLAIN_EFFECTS = Effects()
_ALLOWED = "OPTIONS, GET, HEAD, DELETE, PROPFIND, PUT, PROPPATCH, COPY, MOVE, REPORT"
Act = Callable[[Service, Account, Request, Effects], Response]
Documented = Callable[[Service, Account, Request, bytes], Response]


class App:
    """Implements connection.Application for one service.

    Of a request, `bucket` becomes the tree and `key` the path in it, which is what rules match.
    """

    def __init__(self, service: Service, control: Control) -> None:
        self._service = service
        self._control = control

    def admit(self, request: Request) -> tuple[Effects, Record | None]:
        try:
            place = place_of(request.raw_path)
        except S3Error:
            place = Place("")
        request.bucket, request.key = place.tree, place.path
        if place.tree == CONTROL:
            return PLAIN_EFFECTS, None
        request.op = operation_name(request, place)
        record = LogRecord(request)
        self._service.log.append(record)
        return self._service.knobs.resolve(request), record

    def open_body(self, request: Request, effects: Effects) -> BodyReceiver:
        if request.bucket == CONTROL:
            return MemoryReceiver(lambda body: self._control.answer(request, body))
        if request.bucket in ("status", "ocs", "login"):
            return MemoryReceiver(lambda body: self._open_to_all(request, body))
        account = self._account(request)
        if request.op == "Put":
            return writing.put(self._service, account, request, effects)
        if request.op == "PutChunk":
            return uploads.put_chunk(self._service, account, request, effects)
        return MemoryReceiver(lambda body: self._perform(account, request, effects, body))

    def answer(self, request: Request, effects: Effects) -> Response:
        if request.bucket == CONTROL:
            return self._control.answer(request, b"")
        return self.open_body(request, effects).finish()

    def error(self, error: S3Error, request: Request | None) -> Response:
        response = error_response(error, request)
        response.headers["Server"] = "Apache/2.4.62 (Debian)"
        if error.status == 401 and request is not None and "authorization" in request.headers:
            response.delay_s = brute_force_sleep_s(self._service)
        return response

    def hold(self, resume: Callable[[], None]) -> None:
        self._control.held.append(resume)

    def _open_to_all(self, request: Request, body: bytes) -> Response:
        service = self._service
        if request.bucket == "status":
            return _named(ocs.status(service))
        self._check_maintenance()
        if request.bucket == "login":
            return _named(login_flow(service, request, request.key, body))
        return _named(ocs.ocs(service, request, request.key))

    def _check_maintenance(self) -> None:
        if self._service.settings.maintenance:
            error = refused(503, "System is in maintenance mode.")
            error.headers |= {"Retry-After": "120", "X-Nextcloud-Maintenance-Mode": "1"}
            raise error

    def _account(self, request: Request) -> Account:
        """Who asks; a place of somebody else's is not there for them."""
        self._check_maintenance()
        account = account_of(self._service, request)
        place = place_of(request.raw_path)
        if not place.tree:
            raise refused(404, request.raw_path)
        # Of somebody else's files one sees an empty folder.
        is_empty_folder = not place.path and request.op == "Propfind"
        if place.user not in ("", account.user) and not is_empty_folder:
            raise refused(404, f"File not found: {place.path} in '{place.user}'")
        return account

    def _perform(
        self, account: Account, request: Request, effects: Effects, body: bytes
    ) -> Response:
        service, op = self._service, request.op
        if place_of(request.raw_path).user not in ("", account.user):
            return _named(properties.empty_folder(request, body))
        if op in ("Get", "Head"):
            return _named(read(service, request, account.tree.require(request.key), effects))
        if op in ("Lock", "Unlock"):
            return _named(writing.lock(service, account, request))
        if op == "TrashMove":
            return _named(trash.restore(service, account, request))
        if op == "TrashDelete":
            return _named(trash.remove(service, account, request))
        if op == "Options":
            return _named(Response(200, {"Allow": _ALLOWED, "DAV": "1, 3, extended-mkcol"}))
        if op in _ACTS:
            return _named(_ACTS[op](service, account, request, effects))
        if op == "Proppatch":
            writing.check_all_conditions(account, request, effects)
        if op in _DOCUMENTED and (op != "Bulk" or service.settings.bulkupload):
            return _named(_DOCUMENTED[op](service, account, request, body))
        raise refused(501, f"{request.method} {op or UNKNOWN} is not here")


def _named(response: Response) -> Response:
    response.headers.setdefault("Server", "Apache/2.4.62 (Debian)")
    return response


_ACTS: dict[str, Act] = {
    "Mkcol": writing.mkcol,
    "Delete": writing.delete,
    "Move": moving.move,
    "Copy": moving.copy,
    "MakeUpload": uploads.make,
    "Assemble": uploads.assemble,
    "AbortUpload": uploads.abort,
}
_DOCUMENTED: dict[str, Documented] = {
    "Propfind": properties.propfind,
    "Proppatch": properties.proppatch,
    "ListUpload": uploads.listing,
    "TrashPropfind": trash.listing,
    "Bulk": bulk.bulk,
}
