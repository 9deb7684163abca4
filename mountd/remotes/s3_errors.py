"""S3's errors as ours: by its code where there is one, else by the status."""

import re
from collections.abc import Mapping

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.http_status import retry_after_s
from mountd.remotes.rest import RestAnswer, status_error
from mountd.remotes.xml_pages import parse_xml, texts

# By code, because some come as 400 or 409.
_DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "AuthorizationHeaderMalformed")
# It is who asks that is refused (a revoked key, an expired token, a clock that is wrong), and not
# what he asks for: S3 says 400 or 403 where others say 401.
_SIGN_IN = (
    *("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"),
    *("TokenRefreshRequired", "RequestTimeTooSkewed", "NotSignedUp"),
)
# What was sent is not what arrived, so nothing was made of it.
_CORRUPT = (
    *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XMinioContentSHA256Mismatch"),
    "XAmzContentChecksumMismatch",
)
_OF_CODE: dict[str, type[RemoteError]] = {
    **dict.fromkeys(_DENIED, Denied),
    **dict.fromkeys(_SIGN_IN, SignInRefused),
    **dict.fromkeys(_CORRUPT, Corrupt),
    **dict.fromkeys(("PreconditionFailed", "ConditionalRequestConflict"), VersionChanged),
    **dict.fromkeys(("QuotaExceeded", "XMinioAdminBucketQuotaExceeded"), QuotaExceeded),
    **dict.fromkeys(("KeyTooLongError", "InvalidURI", "XMinioInvalidObjectName"), NameNotAllowed),
    **dict.fromkeys(("EntityTooLarge", "MetadataTooLarge", "NotImplemented"), Unsupported),
    "XMinioStorageFull": QuotaExceeded,
    "NoSuchBucket": ContainerMissing,
    "NoSuchKey": NotFound,
}
_THROTTLED = frozenset(
    ("SlowDown", "RequestLimitExceeded", "ThrottlingException", "OperationAborted")
)
# The server gave up on a connection that stood still, or an upload went away below us.
_UNREACHABLE = frozenset(
    ("RequestTimeout", "IncompleteBody", "InternalError", "NoSuchUpload", "InvalidPart")
)
_REGION = re.compile(r"[a-z0-9-]{1,40}")  # what a remote says goes into a line that people type


def s3_error(answer: RestAnswer, what: str) -> RemoteError:
    told = _told(answer.body)
    code = told.get("Code", "")
    shown = f"{what}: {code or 'HTTP'} ({answer.status})"
    if code == "RequestTimeTooSkewed":
        shown += ": the clock of this machine is wrong, or the remote's"
    region = answer.header("x-amz-bucket-region") or told.get("Region", "")
    if answer.status in (301, 307, 400) and _REGION.fullmatch(region):
        elsewhere = f"{shown}: the bucket is in region {region}; set -o region={region}"
    else:
        elsewhere = ""
    if code == "AuthorizationHeaderMalformed" and elsewhere:
        return Denied(elsewhere)
    if code in _OF_CODE:
        return _OF_CODE[code](shown)
    if code in _THROTTLED:
        return Throttled(shown, retry_after_s(answer.headers.get("retry-after")))
    if code in _UNREACHABLE and answer.status != 507:
        return Unreachable(shown, answered=True)
    if elsewhere:
        return Denied(elsewhere)
    if answer.status < 300:
        # Complete and copy begin their 200 before they know how it ends.
        return Unreachable(f"{shown}: a success without a result", answered=True)
    if not code and answer.status in (404, 410):
        # A proxy's page, while S3 itself is away: S3 always says what it is that is missing.
        return Unreachable(f"{shown}: not an answer of S3", answered=True)
    return status_error(answer, shown)


def write_error(answer: RestAnswer, what: str, is_conditional: bool) -> RemoteError:
    """As `s3_error`, for a request that changes `what`.

    S3 answers 404 to If-Match where nothing is. Any other 404 is not about the key: it would be
    made.
    """
    error = s3_error(answer, what)
    if not isinstance(error, NotFound):
        return error
    if is_conditional and error_code(answer.body) == "NoSuchKey":
        return VersionChanged(*error.args)
    return Unreachable(*error.args, answered=True)


def error_code(body: bytes) -> str:
    """S3's code in an error's body, or ""."""
    return _told(body).get("Code", "")


def _told(body: bytes) -> Mapping[str, str]:
    """The texts of an error's body; none where it is no error of S3's."""
    if not body.lstrip().startswith(b"<"):
        return {}
    try:
        root = parse_xml(body.strip())
    except Corrupt:
        # A proxy's page of HTML.
        return {}
    return texts(root) if root.tag.rpartition("}")[2] == "Error" else {}
