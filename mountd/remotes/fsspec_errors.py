"""What fsspec's file systems raise, as errors of `mountd.errors`.

They translate their clients' exceptions into OSErrors, mostly, and some leak them. The client's
own exception, which is then the cause or context, carries the HTTP status: that decides, so that a
FileNotFoundError that was made of a 403 or a 500 is not taken for an absence.
"""

import errno
from collections.abc import Iterator, Mapping

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.http_status import error_of_status
from mountd.remotes.tls import why_not_trusted

_NO_CONTAINER = frozenset(("NoSuchBucket", "ContainerNotFound"))
# By name, because their packages are not imported (nor installed) unless they are used.
_NO_CREDENTIALS = frozenset(
    (
        *(
            "NoCredentialsError",
            "PartialCredentialsError",
            "ProfileNotFound",
            "TokenRetrievalError",
        ),
        *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"),
        *("CredentialUnavailableError", "AuthenticationException", "LogonFailure"),
    )
)
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_OF_ERRNO: Mapping[int, type[RemoteError]] = {
    errno.ENOSPC: QuotaExceeded,
    errno.EDQUOT: QuotaExceeded,
    errno.EROFS: Denied,
    errno.ENAMETOOLONG: NameNotAllowed,
    errno.ENOTEMPTY: DirectoryNotEmpty,
    errno.EFBIG: Unsupported,
}
_MAX_CHAIN = 10


def remote_error(what: str, error: BaseException) -> RemoteError:
    """The RemoteError that stands for `error`. Whatever is not understood is Unreachable, never
    NotFound."""
    message = f"{what}: {str(error) or type(error).__name__}"
    if why := why_not_trusted(error):  # before the others: SSLCertVerificationError is a ValueError
        return Unreachable(f"{what}: {why}")
    for link in _chain(error):
        if isinstance(link, RemoteError):
            return link
        if _code_of(link) in _NO_CONTAINER:
            return ContainerMissing(message)
        if type(link).__name__ in _NO_CREDENTIALS:
            return Denied(message)
        status = _status_of(link)
        if status is not None and status >= 400:
            return error_of_status(status, message, _retry_after_of(link))
    if isinstance(error, FileExistsError):
        return VersionChanged(message)
    of_errno = _OF_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None
    if of_errno is not None:
        return of_errno(message)
    if isinstance(error, _NO_FILE):
        return NotFound(message)
    # gcsfs makes an OSError without errno of a 403, and keeps nothing else of it.
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
        return Denied(message)
    if isinstance(error, SyntaxError):  # ElementTree's ParseError is one
        return Corrupt(message)
    if isinstance(error, NotImplementedError | ValueError | TypeError):
        return Unsupported(message)
    return Unreachable(message)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _status_of(error: BaseException) -> int | None:
    """botocore: response["ResponseMetadata"]; azure, webdav4: status_code; aiohttp: status;
    gcsfs, google: code; httpx: response.status_code."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _as_status(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for owner in (error, response):
        for name in ("status_code", "status", "code"):
            status = _as_status(getattr(owner, name, None))
            if status is not None:
                return status
    return None


def _as_status(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 100 <= value < 600 else None


def _code_of(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "error_code", ""))


def _retry_after_of(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    else:
        headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    if not isinstance(headers, Mapping):
        return None
    found = headers.get("retry-after") or headers.get("Retry-After")
    return str(found) if found else None
