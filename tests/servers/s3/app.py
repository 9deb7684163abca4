"""From a request to its operation: who may, which one it is, and what answers it."""

from collections.abc import Callable

from tests.servers.s3 import buckets, multipart, writing
from tests.servers.s3.attributes import object_attributes
from tests.servers.s3.control import Control
from tests.servers.s3.knobs import Effects
from tests.servers.s3.listing import list_objects_v1, list_objects_v2
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.operations import CONTROL_BUCKET, UNKNOWN, operation_name
from tests.servers.s3.reading import read_object
from tests.servers.s3.receivers import BodyReceiver, MemoryReceiver, ObjectReceiver, Received
from tests.servers.s3.requestlog import LogRecord
from tests.servers.s3.service import Service
from tests.servers.s3.xmltext import error_document

PLAIN_EFFECTS = Effects()
_REFUSED_HEADERS = (
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-write-offset-bytes",
)


class App:
    """Implements connection.Application for one service."""

    def __init__(self, service: Service, control: Control) -> None:
        self._service = service
        self._control = control

    def admit(self, request: Request) -> tuple[Effects, LogRecord | None]:
        if request.bucket == CONTROL_BUCKET:
            return PLAIN_EFFECTS, None
        request.op = operation_name(request)
        record = LogRecord(
            request.arrived_s,
            request.connection_id,
            request.method,
            request.op,
            request.bucket,
            request.key,
            request.raw_query,
            request.headers.get("range", ""),
        )
        self._service.log.records.append(record)
        return self._service.knobs.resolve(request), record

    def open_body(self, request: Request, effects: Effects) -> BodyReceiver:
        if request.bucket == CONTROL_BUCKET:
            return MemoryReceiver(lambda body: self._control.answer(request, body))
        self._verify(request, effects)
        return self._receiver(request, effects)

    def answer(self, request: Request, effects: Effects) -> Response:
        if request.bucket == CONTROL_BUCKET:
            return self._control.answer(request, b"")
        self._verify(request, effects)
        if request.op in ("GetObject", "HeadObject"):
            return read_object(self._service.store.require(request.bucket), request, effects)
        return self._receiver(request, effects).finish()

    def error(self, error: S3Error, request: Request | None) -> Response:
        return error_document(error, "" if request is None else request.raw_path)

    def hold(self, resume: Callable[[], None]) -> None:
        self._control.held.append(resume)

    def _verify(self, request: Request, effects: Effects) -> None:
        """Refuses what isn't signed, and what this server would have to ignore."""
        self._service.verifier.check(
            request,
            allow_anonymous=effects.allow_anonymous,
            token_expired=effects.token_expired,
        )
        if request.query.get("versionId", "null") != "null":
            raise S3Error(400, "InvalidArgument", "Invalid version id specified")
        for name in _REFUSED_HEADERS:
            if name in request.headers:
                raise S3Error(501, "NotImplemented", f"{name} is not in this test server")

    def _receiver(self, request: Request, effects: Effects) -> BodyReceiver:
        """What takes the request's body (which may be empty) and answers."""
        service, op = self._service, request.op
        if op in ("UploadPart", "CompleteMultipartUpload"):
            # Refused at once, and not after gigabytes.
            multipart.require_upload(service, request)
            if op == "UploadPart":
                multipart.part_number(request)
        elif request.bucket and op != "CreateBucket":
            service.store.require(request.bucket)
        if op in _BODY_OPERATIONS:
            act = _BODY_OPERATIONS[op]
            return ObjectReceiver(
                service, request, effects, lambda got: act(service, request, effects, got)
            )
        return MemoryReceiver(lambda _body: self._perform(request, effects))

    def _perform(self, request: Request, effects: Effects) -> Response:
        service, op = self._service, request.op
        if op in _BUCKET_OPERATIONS:
            return _BUCKET_OPERATIONS[op](service, request)
        if op in _BODILESS_OPERATIONS:
            return _BODILESS_OPERATIONS[op](service, request, effects)
        raise S3Error(
            501, "NotImplemented", f"{request.method} {op or UNKNOWN} is not in this test server"
        )


_BUCKET_OPERATIONS: dict[str, Callable[[Service, Request], Response]] = {
    "ListBuckets": buckets.list_buckets,
    "CreateBucket": buckets.create_bucket,
    "DeleteBucket": buckets.delete_bucket,
    "HeadBucket": buckets.head_bucket,
    "GetBucketLocation": buckets.bucket_location,
    "GetBucketVersioning": buckets.bucket_versioning,
    "CreateMultipartUpload": multipart.create_upload,
}
_BODILESS_OPERATIONS: dict[str, Callable[[Service, Request, Effects], Response]] = {
    "ListObjectsV2": list_objects_v2,
    "ListObjects": list_objects_v1,
    "CopyObject": writing.copy_object,
    "DeleteObject": writing.delete_object,
    "UploadPartCopy": multipart.upload_part_copy,
    "AbortMultipartUpload": multipart.abort_upload,
    "ListParts": multipart.list_parts,
    "GetObjectAttributes": object_attributes,
    "ListMultipartUploads": multipart.list_uploads,
}
_BODY_OPERATIONS: dict[str, Callable[[Service, Request, Effects, Received], Response]] = {
    "PutObject": writing.put_object,
    "DeleteObjects": writing.delete_objects,
    "UploadPart": multipart.upload_part,
    "CompleteMultipartUpload": multipart.complete_upload,
}
