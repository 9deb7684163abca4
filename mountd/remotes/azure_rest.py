"""Azure Blob's REST interface: properties, List Blobs, ranged Get Blob, List Containers.

https://learn.microsoft.com/rest/api/storageservices/list-blobs
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote, urlencode, urlsplit
from xml.etree.ElementTree import Element

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    NotFound,
    RemoteError,
    Throttled,
)
from mountd.remotes.azure_credentials import AzureAccount, sas_query
from mountd.remotes.base import Capabilities
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.http_status import mtime_ns_of_http_date, retry_after_s
from mountd.remotes.object_store import CAPABILITIES, ListedObject, ListPage
from mountd.remotes.rest import (
    RestAnswer,
    RestClient,
    check_tag,
    checked_range,
    range_header,
    status_error,
)
from mountd.remotes.xml_pages import children, parse_xml, texts

_ERROR_BODY_BYTES = 1 << 16
_MISSING_CONTAINER = frozenset(("ContainerNotFound", "ContainerBeingDeleted"))
_DENIED = frozenset(("AuthenticationFailed", "InvalidAuthenticationInfo", "AccountIsDisabled"))


class AzureRest:
    """A `Provider` and `PlainReads` for one container; with container "", the account."""

    def __init__(self, account: AzureAccount, container: str, timeout_s: float) -> None:
        parts = urlsplit(account.endpoint)
        self._account = account
        self._sas = sas_query(account)
        self._container = container
        # Path-style endpoints (emulators) have the account in the path.
        self._base_path = f"{parts.path}/{container}" if container else parts.path
        self._client = RestClient(f"{parts.scheme}://{parts.netloc}", timeout_s)
        self.ranges_come_as_200 = False

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def head(self, key: str) -> ListedObject:
        answer = self._send("HEAD", key, {}, {})
        if answer.status != 200:
            raise self._error(answer, key)
        size = answer.header("content-length")
        version = opaque_tag(answer.header("etag"))
        if not size.isdigit() or not version:
            raise Corrupt(f"{key}: HEAD answers without a length or an ETag")
        mtime_ns = mtime_ns_of_http_date(answer.header("last-modified"))
        return ListedObject(key, int(size), mtime_ns, version)

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        query = {"restype": "container", "comp": "list", "prefix": prefix}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["marker"] = token
        if limit is not None:
            query["maxresults"] = str(limit)
        answer = self._send("GET", "", query, {})
        if answer.status != 200:
            raise self._error(answer, prefix)
        return page_of(parse_xml(answer.body))

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        headers = {"Range": range_header(start, end)}
        if version:
            headers["If-Match"] = version
        max_bytes = max(end - start, _ERROR_BODY_BYTES)
        answer = self._send("GET", key, {}, headers, timeout_s, max_bytes)
        if answer.status not in (200, 206):
            raise self._error(answer, key)
        check_tag(answer, key, version)
        data = checked_range(answer, start, end)
        self.ranges_come_as_200 = self.ranges_come_as_200 or answer.status == 200
        return data

    def bucket_names(self) -> Sequence[str]:
        names: list[str] = []
        marker = ""
        while True:
            query = {"comp": "list"} | ({"marker": marker} if marker else {})
            answer = self._send("GET", "", query, {})
            if answer.status != 200:
                raise self._error(answer, "the account's containers")
            found = dict(children(parse_xml(answer.body)))
            if "Containers" not in found or "NextMarker" not in found:
                raise Corrupt("a list of containers that is not whole")
            names += [texts(each).get("Name", "") for _, each in children(found["Containers"])]
            marker = found["NextMarker"].text or ""
            if not marker:
                return names

    def close(self) -> None:
        self._client.close()

    def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        timeout_s: float | None = None,
        max_bytes: int | None = None,
    ) -> RestAnswer:
        path = quote(f"{self._base_path}/{key}" if key else self._base_path or "/", safe="/-_.~")
        signed = self._account.signed(method, path, query, headers)
        whole = {**query, **self._sas}
        target = f"{path}?{urlencode(whole, quote_via=quote, safe='-_.~')}" if whole else path
        if max_bytes is None:
            return self._client.send(method, target, signed, timeout_s)
        return self._client.send(method, target, signed, timeout_s, max_bytes)

    def _error(self, answer: RestAnswer, key: str) -> RemoteError:
        return azure_error(answer, f"az://{self._container}/{key}")


def azure_error(answer: RestAnswer, what: str) -> RemoteError:
    """The error by Azure's code, which is a header of every answer, else by the status."""
    code = answer.header("x-ms-error-code")
    shown = f"{what}: {code or 'HTTP'} ({answer.status})"
    if code in _MISSING_CONTAINER:
        return ContainerMissing(shown)
    if code == "BlobNotFound":
        return NotFound(shown)
    if code in _DENIED:
        return Denied(shown)
    if code == "ServerBusy":
        return Throttled(shown, retry_after_s(answer.headers.get("retry-after")))
    return status_error(answer, shown)


def page_of(root: Element) -> ListPage:
    """A List Blobs answer. Raises Corrupt for one that can't be whole."""
    found = dict(children(root))
    if "Blobs" not in found or "NextMarker" not in found:
        raise Corrupt("a listing without Blobs or NextMarker")
    objects: list[ListedObject] = []
    prefixes: list[str] = []
    for tag, element in children(found["Blobs"]):
        parts = dict(children(element))
        if "Name" not in parts:
            raise Corrupt("a listing with an entry without a name")
        name = _name(parts["Name"])
        if tag == "BlobPrefix":
            prefixes.append(name)
            continue
        properties = texts(parts["Properties"]) if "Properties" in parts else {}
        if properties.get("ResourceType") == "directory":
            # With a hierarchical namespace a directory comes as an empty blob, too.
            prefixes.append(name.removesuffix("/") + "/")
        else:
            objects.append(_object_of(name, properties))
    return ListPage(objects, prefixes, found["NextMarker"].text or "")


def _name(element: Element) -> str:
    text = element.text or ""
    # How Azure writes names that XML can't carry.
    return unquote(text) if element.get("Encoded") == "true" else text


def _object_of(name: str, properties: Mapping[str, str]) -> ListedObject:
    try:
        size = int(properties["Content-Length"])
        mtime_ns = mtime_ns_of_http_date(properties["Last-Modified"])
        return ListedObject(name, size, mtime_ns, opaque_tag(properties["Etag"]))
    except (KeyError, ValueError) as error:
        raise Corrupt(f"an unreadable entry in a listing: {name!r} {properties}") from error
