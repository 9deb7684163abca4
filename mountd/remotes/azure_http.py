"""Signed requests to Azure Blob, their errors, and what an answer says about a blob.

https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

from typing_extensions import Buffer

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.azure_credentials import AzureAccount, sas_query
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.http_status import mtime_ns_of_http_date, retry_after_s
from mountd.remotes.object_metadata import attributes_of, mtime_ns_of
from mountd.remotes.object_store import ListedObject
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import MAX_BODY_BYTES, RestAnswer, RestClient, status_error

_META = "x-ms-meta-"
# What Azure allows in a metadata name: those of C#'s identifiers, in any case. `-` is written `_`
# (`mountd_upload`), and everything else as `__` and its code, so that names come back exactly.
_ODD = re.compile(r"^-|-(?=-)|^[0-9]|[^a-z0-9-]")
_WRITTEN = re.compile(r"__([0-9a-f]{2})|_")

_ERROR_OF_CODE: dict[str, type[RemoteError]] = {
    "ContainerNotFound": ContainerMissing,
    "ContainerBeingDeleted": ContainerMissing,
    "BlobNotFound": NotFound,
    # Who asks is refused: a key, a SAS that has expired, a wrong clock. Some come as 403.
    "AuthenticationFailed": SignInRefused,
    "InvalidAuthenticationInfo": SignInRefused,
    "AccountIsDisabled": Denied,
    "BlobImmutableDueToPolicy": Denied,
    "BlobAlreadyExists": VersionChanged,
    "LeaseIdMissing": Locked,
    "LeaseAlreadyPresent": Locked,
    "LeaseLost": Locked,
    "PendingCopyOperation": Locked,
    "Md5Mismatch": Corrupt,
    "InvalidUri": NameNotAllowed,
    "InvalidResourceName": NameNotAllowed,
    "OutOfRangeInput": NameNotAllowed,
}


class AzureHttp:
    """Requests for one container (or, with container "", for the account)."""

    def __init__(self, account: AzureAccount, container: str, timeout_s: float) -> None:
        parts = urlsplit(account.endpoint)
        self.account = account
        self.container = container
        self.timeout_s = timeout_s
        self._sas = sas_query(account)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        # Path-style endpoints (emulators) have the account in the path.
        self._base_path = f"{parts.path}/{container}" if container else parts.path
        self._client = RestClient(self._origin, timeout_s, account.tls)

    def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        *,
        body: Buffer | SentBody = b"",
        timeout_s: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> RestAnswer:
        """`RestClient.send` for a blob's key (or "", the container)."""
        body = body if isinstance(body, SentBody) else SentBody.of(body)
        if body.size:
            # It is signed, so it is said here.
            headers = {**headers, "Content-Length": str(body.size)}
        path = self._path(key)
        signed = self.account.signed(method, path, query, headers)
        whole = {**query, **self._sas}
        target = f"{path}?{urlencode(whole, quote_via=quote, safe='-_.~')}" if whole else path
        return self._client.send(method, target, signed, timeout_s, max_bytes, body)

    def url_of(self, key: str, query: Mapping[str, str]) -> str:
        """The blob's URL for somebody who isn't us, with our SAS, if we have one."""
        whole = {**query, **self._sas}
        asked = f"?{urlencode(whole, quote_via=quote, safe='-_.~')}" if whole else ""
        return f"{self._origin}{self._path(key)}{asked}"

    def what(self, key: str) -> str:
        return f"az://{self.container}/{key}"

    def error(self, answer: RestAnswer, key: str) -> RemoteError:
        return azure_error(answer, self.what(key))

    def close(self) -> None:
        self._client.close()

    def _path(self, key: str) -> str:
        path = f"{self._base_path}/{key}" if key else self._base_path or "/"
        return quote(path, safe="/-_.~")


def azure_error(answer: RestAnswer, what: str) -> RemoteError:
    """The error by Azure's code, which is a header of every answer, else by the status."""
    code = answer.header("x-ms-error-code")
    shown = f"{what}: {code or 'HTTP'} ({answer.status})"
    if code == "ServerBusy":
        return Throttled(shown, retry_after_s(answer.headers.get("retry-after")))
    if code.endswith(("QuotaExceeded", "SizeLimitReached")):
        return QuotaExceeded(shown)
    if not code and answer.status in (404, 410):
        # A proxy's page, while Azure itself is away.
        return Unreachable(f"{shown}: not an answer of Azure", answered=True)
    known = _ERROR_OF_CODE.get(code)
    return known(shown) if known is not None else status_error(answer, shown)


def blob_of(key: str, size: int, answer: RestAnswer, metadata: Mapping[str, str]) -> ListedObject:
    """The blob that an answer with its ETag is about. Its time is that of the file it was made
    from, where the metadata says it."""
    version = opaque_tag(answer.header("etag"))
    if not version:
        raise Corrupt(f"{key}: an answer without an ETag")
    mtime_ns = mtime_of(metadata, answer.header("last-modified"))
    return ListedObject(key, size, mtime_ns, version, attributes_of(metadata))


def mtime_of(metadata: Mapping[str, str], last_modified: str) -> int:
    kept_ns = mtime_ns_of(metadata)
    return mtime_ns_of_http_date(last_modified) if kept_ns is None else kept_ns


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {f"{_META}{written_name(name)}": value for name, value in metadata.items()}


def metadata_in(headers: Mapping[str, str]) -> dict[str, str]:
    """The metadata of an answer, by its plain names."""
    return {
        plain_name(name.removeprefix(_META)): value
        for name, value in headers.items()
        if name.startswith(_META)
    }


def written_name(name: str) -> str:
    """A metadata name as Azure takes it. Only ASCII."""
    return _ODD.sub(lambda found: f"__{ord(found[0]):02x}", name).replace("-", "_")


def plain_name(written: str) -> str:
    return _WRITTEN.sub(lambda found: chr(int(found[1], 16)) if found[1] else "-", written)
