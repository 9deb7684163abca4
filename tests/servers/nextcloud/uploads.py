"""Chunked uploads: the folder, its chunks, and the MOVE that puts them together.

Chunking 1.0 and v2 are the same on the wire but for the Destination header on each request, by
which the quota is known early; only object storage makes v2 stricter (`strict_chunks`).
"""

import time

from tests.servers.nextcloud import davxml
from tests.servers.nextcloud.bodies_in import Arrived, UploadReceiver, hashes_of
from tests.servers.nextcloud.conditions import Target, check_conditions
from tests.servers.nextcloud.moving import Destination, destination_of
from tests.servers.nextcloud.permissions import check_quota, check_unlocked, free_bytes
from tests.servers.nextcloud.places import place_of_url
from tests.servers.nextcloud.properties import is_minimal, oc_id
from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Account, Chunk, Service, Upload
from tests.servers.nextcloud.writing import check_if, check_may_write, keep_file
from tests.servers.s3.bodies import join_bodies
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, S3Error, http_date

FUTURE_FILE = ".file"
# href, size (None: a folder), ETag, mtime
Row = tuple[str, int | None, str, int]
MAX_CHUNKS = 10_000
# Between the end of an assembly and its answer, so that the answer finds it done.
_ANSWER_LAG_S = 0.005
_LOOK_AGAIN_S = 0.02


def forget_expired(service: Service, account: Account) -> None:
    horizon_s = time.monotonic() - service.settings.upload_ttl_s
    for name, upload in list(account.uploads.items()):
        if upload.used_s < horizon_s and not upload.assembling:
            del account.uploads[name]


def _upload(account: Account, path: str) -> tuple[Upload, str]:
    name, _, chunk = path.partition("/")
    upload = account.uploads.get(name)
    if upload is None:
        raise refused(404, f"File with name //{name} could not be located")
    return upload, chunk


def make(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    forget_expired(service, account)
    name = request.key
    if not name or "/" in name:
        raise refused(403, "Permission denied to create file")
    if name in account.uploads:
        raise refused(405, "The resource you tried to create already exists")
    upload = Upload(name, request.headers.get("destination", ""))
    account.uploads[name] = upload
    return Response(201)


def _check_total(service: Service, account: Account, request: Request) -> None:
    """The early 507: with a Destination inside the user's files and a total length."""
    total = request.headers.get("oc-total-length", "")
    destination = request.headers.get("destination", "")
    if destination and place_of_url(destination).tree == "files" and total.isdecimal():
        check_quota(service, account.user, int(total))


def put_chunk(
    service: Service, account: Account, request: Request, effects: Effects
) -> UploadReceiver:
    forget_expired(service, account)
    name, _, chunk_name = request.key.partition("/")
    upload = account.uploads.get(name)
    if upload is None or not chunk_name:
        raise refused(404, f"File with name //{name} could not be located")
    if "/" in chunk_name or chunk_name == FUTURE_FILE:
        raise refused(403, "Permission denied to put into this file")
    if service.settings.strict_chunks and upload.destination:
        number = int(chunk_name) if chunk_name.isdecimal() else -1
        if not 1 <= number <= MAX_CHUNKS:
            raise refused(400, "Invalid chunk name, must be numeric between 1 and 10000")
    _check_total(service, account, request)
    existing = upload.chunks.get(chunk_name)
    check_conditions(request, _chunk_target(existing))

    def commit(arrived: Arrived) -> Response:
        if account.uploads.get(name) is not upload:
            raise refused(404, f"File with name //{name} could not be located")
        replaced = chunk_name in upload.chunks
        upload.chunks[chunk_name] = Chunk(arrived.body)
        upload.used_s = time.monotonic()
        return Response(204 if replaced else 201, dict(arrived.hash_headers))

    return UploadReceiver(service.spool, request, commit)


def _chunk_target(chunk: Chunk | None) -> Target | None:
    return None if chunk is None else Target(f'"{chunk.etag}"', chunk.mtime_s)


def abort(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    upload, chunk_name = _upload(account, request.key)
    if chunk_name:
        if upload.chunks.pop(chunk_name, None) is None:
            raise refused(404, f"{chunk_name} could not be located")
    else:
        del account.uploads[upload.name]
    return Response(204)


def listing(service: Service, account: Account, request: Request, body: bytes) -> Response:
    """The uploads of the user, or what has come of one of them; `.file` is listed, too."""
    forget_expired(service, account)
    asked = davxml.asked_properties(body)
    base = f"/remote.php/dav/uploads/{davxml.encoded(account.user)}"
    deep = request.headers.get("depth") != "0"
    if not request.key:
        rows: list[Row] = [(f"{base}/", None, "", 0)]
        if deep:
            rows += [
                (f"{base}/{davxml.encoded(each.name)}/", None, "", 0)
                for each in account.uploads.values()
            ]
        return _rows(rows, asked, request)
    upload, chunk_name = _upload(account, request.key)
    base += f"/{davxml.encoded(upload.name)}"
    future: Row = (
        f"{base}/{FUTURE_FILE}",
        upload.size(),
        upload.etag,
        0,
    )
    if chunk_name == FUTURE_FILE:
        return _rows([future], asked, request)
    chunks: list[Row] = [
        (f"{base}/{davxml.encoded(name)}", chunk.body.size, chunk.etag, chunk.mtime_s)
        for name, chunk in sorted(upload.chunks.items())
        if chunk_name in ("", name)
    ]
    if chunk_name:
        if not chunks:
            raise refused(404, f"{chunk_name} could not be located")
        return _rows(chunks, asked, request)
    folder: list[Row] = [(f"{base}/", None, "", 0)]
    return _rows([*folder, future, *chunks] if deep else folder, asked, request)


def _rows(rows: list[Row], asked: tuple[str, ...], request: Request) -> Response:
    entries = []
    for href, size, etag, mtime_s in rows:
        known = {
            "d:resourcetype": "<d:collection/>" if size is None else "",
            "d:getlastmodified": http_date(mtime_s or int(time.time())),
        }
        if etag:
            known["d:getetag"] = f"&quot;{etag}&quot;"
        if size is not None:
            known["d:getcontentlength"] = str(size)
        found = "".join(f"<{name}>{known[name]}</{name}>" for name in asked if name in known)
        missing = () if is_minimal(request) else [name for name in asked if name not in known]
        entries.append(davxml.entry(href, found, missing))
    return davxml.multistatus(entries)


def assemble(service: Service, account: Account, request: Request, effects: Effects) -> Response:
    """MOVE of `.file`. What is checked before is checked once; the work may take `assembly_s`."""
    forget_expired(service, account)
    upload, chunk_name = _upload(account, request.key)
    if chunk_name != FUTURE_FILE:
        raise refused(403, "only .file can be moved")
    if not effects.ignore_conditionals:
        # Against `.file`, whose ETag is nobody's: an If-Match with the target's always fails.
        check_conditions(request, Target(f'"{upload.etag}"', 0))
        check_if(account, request)
    to = destination_of(service, account, request)
    _check_sum(service, account, request, upload)
    check_may_write(service, account, to.path, request)
    if to.existing is not None:
        check_unlocked(to.existing, account.user)
    if upload.assembling or service.writers(account.user, to.path):
        raise refused(423, f'"{to.path}" is locked')
    return _begin(service, account, request, upload, to)


def _check_sum(service: Service, account: Account, request: Request, upload: Upload) -> None:
    size = upload.size()
    free = free_bytes(service, account.user)
    if 0 <= free < size:
        raise refused(507, f"Insufficient space, {size} required, {free} available")
    expected = request.headers.get("oc-total-length")
    if expected is not None and expected != str(size):
        raise refused(400, f"Chunks on server do not sum up to {expected} but to {size} bytes")
    if service.settings.strict_chunks and upload.destination:
        ordered = [upload.chunks[name].body.size for name in sorted(upload.chunks, key=int)]
        if any(size < service.settings.min_chunk_bytes for size in ordered[:-1]):
            raise refused(500, "EntityTooSmall", "Aws\\S3\\Exception\\S3MultipartUploadException")


def _order(name: str) -> tuple[int, int | str]:
    return (0, int(name)) if name.isdecimal() else (1, name)


def _begin(
    service: Service, account: Account, request: Request, upload: Upload, to: Destination
) -> Response:
    response = Response(201 if to.existing is None else 204)
    token = service.begin_writing(account.user, to.path)
    upload.assembling = True

    def finish() -> None:
        upload.assembling = False
        names = sorted(upload.chunks, key=_order)
        body = join_bodies([upload.chunks[name].body for name in names])
        arrived = Arrived(body, hashes_of(body, request.headers.get("x-hash", "")))
        try:
            node, headers = keep_file(service, account, to.path, request, arrived)
        except S3Error as error:
            response.status = error.status
            return
        finally:
            _forget(token)
        account.uploads.pop(upload.name, None)
        etag = f'"{node.etag}"'
        response.headers |= {"OC-FileId": oc_id(node), "OC-ETag": etag, "ETag": etag, **headers}

    assembly_s = service.settings.assembly_s
    if not assembly_s:
        finish()
        return response
    begun_s = time.monotonic()

    def look() -> None:
        """A test may make it shorter while it lasts."""
        now_s, due_s = time.monotonic(), begun_s + service.settings.assembly_s
        if now_s >= due_s:
            finish()
        else:
            service.timers.call_at(min(due_s, now_s + _LOOK_AGAIN_S), look)

    look()
    if assembly_s > service.settings.gateway_timeout_s:
        late = Response(504, {"Content-Type": "text/html"}, b"<h1>504 Gateway Time-out</h1>")
        late.delay_s = service.settings.gateway_timeout_s
        return late
    response.delay_s = assembly_s + _ANSWER_LAG_S
    return response


def _forget(token: object) -> None:
    """Only keeps the writer's token alive until here."""
