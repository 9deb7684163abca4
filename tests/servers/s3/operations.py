"""Which S3 operation a request is, by S3's own names (the log and the rules use them)."""

from tests.servers.s3.message import Request

CONTROL_BUCKET = "_control"
UNKNOWN = "Unknown"

# Sub-resources that S3 has and this server has not: 501 instead of a wrong answer.
_NOT_HERE = frozenset(
    [
        "acl",
        "accelerate",
        "analytics",
        "cors",
        "encryption",
        "inventory",
        "legal-hold",
        "lifecycle",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "tagging",
        "torrent",
        "versions",
        "website",
    ]
)
_BUCKET_GET = {
    "location": "GetBucketLocation",
    "uploads": "ListMultipartUploads",
    "versioning": "GetBucketVersioning",
}
_BUCKET_PLAIN = {
    "GET": "ListObjects",
    "HEAD": "HeadBucket",
    "PUT": "CreateBucket",
    "DELETE": "DeleteBucket",
}
_OBJECT_PLAIN = {
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "PUT": "PutObject",
    "DELETE": "DeleteObject",
}
_UPLOAD = {
    "GET": "ListParts",
    "PUT": "UploadPart",
    "POST": "CompleteMultipartUpload",
    "DELETE": "AbortMultipartUpload",
}


def operation_name(request: Request) -> str:
    """`Unknown` for what this server does not do."""
    query, method = request.query, request.method
    if query and not _NOT_HERE.isdisjoint(query):
        return UNKNOWN
    if request.key:
        return _object_operation(request)
    if not request.bucket:
        return "ListBuckets" if method == "GET" else UNKNOWN
    if method == "GET":
        if query.get("list-type") == "2":
            return "ListObjectsV2"
        for name in query:
            if name in _BUCKET_GET:
                return _BUCKET_GET[name]
    if method == "POST":
        return "DeleteObjects" if "delete" in query else UNKNOWN
    if method == "PUT" and "versioning" in query:
        return UNKNOWN
    return _BUCKET_PLAIN.get(method, UNKNOWN)


def _object_operation(request: Request) -> str:
    query, method = request.query, request.method
    copy = "x-amz-copy-source" in request.headers
    if "uploadId" in query:
        name = _UPLOAD.get(method, UNKNOWN)
        return "UploadPartCopy" if copy and name == "UploadPart" else name
    if method == "POST":
        return "CreateMultipartUpload" if "uploads" in query else UNKNOWN
    if "attributes" in query:
        return "GetObjectAttributes" if method == "GET" else UNKNOWN
    if copy and method == "PUT":
        return "CopyObject"
    return _OBJECT_PLAIN.get(method, UNKNOWN)
