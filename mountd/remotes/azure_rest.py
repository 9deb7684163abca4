"""One container of Azure Blob: properties, List Blobs, ranged Get Blob, List Containers.

https://learn.microsoft.com/rest/api/storageservices/list-blobs
"""

from collections.abc import Mapping, Sequence
from typing import Self
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from mountd.errors import Corrupt, Unsupported
from mountd.remotes.azure_credentials import AzureAccount
from mountd.remotes.azure_http import AzureHttp, mtime_of, plain_name
from mountd.remotes.azure_write import CAPABILITIES, AzureWrites
from mountd.remotes.base import Body, Capabilities, Upload
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_metadata import attributes_of
from mountd.remotes.object_store import FoundObject, ListedObject, ListPage
from mountd.remotes.rest import check_tag, checked_range, range_header
from mountd.remotes.untrusted import Advance, size_in
from mountd.remotes.xml_pages import children, parse_xml, texts

_ERROR_BODY_BYTES = 1 << 16


class AzureRest:
    """A `Provider` and `PlainReads` for one container; with container "", the account."""

    def __init__(self, account: AzureAccount, container: str, timeout_s: float) -> None:
        self._http = AzureHttp(account, container, timeout_s)
        self._writes = AzureWrites(self._http)
        self.ranges_come_as_200 = False

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def head(self, key: str) -> ListedObject:
        return self._writes.head(key)

    def list_page(self, prefix: str, delimiter: str, token: str, limit: int | None) -> ListPage:
        query = {"restype": "container", "comp": "list", "prefix": prefix, "include": "metadata"}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["marker"] = token
        if limit is not None:
            query["maxresults"] = str(limit)
        answer = self._http.send("GET", "", query, {})
        if answer.status != 200:
            raise self._http.error(answer, prefix)
        return page_of(parse_xml(answer.body))

    def read_range(
        self, key: str, start: int, end: int, version: str, timeout_s: float | None = None
    ) -> bytes:
        headers = {"Range": range_header(start, end)}
        if version:
            headers["If-Match"] = version
        max_bytes = max(end - start, _ERROR_BODY_BYTES)
        answer = self._http.send("GET", key, {}, headers, timeout_s=timeout_s, max_bytes=max_bytes)
        if answer.status not in (200, 206):
            raise self._http.error(answer, key)
        check_tag(answer, key, version)
        data = checked_range(answer, start, end)
        self.ranges_come_as_200 = self.ranges_come_as_200 or answer.status == 200
        return data

    def bucket_names(self) -> Sequence[str]:
        names: list[str] = []
        marker, advance = "", Advance("the account's containers")
        while True:
            query = {"comp": "list"} | ({"marker": marker} if marker else {})
            answer = self._http.send("GET", "", query, {})
            if answer.status != 200:
                raise self._http.error(answer, "the account's containers")
            found = dict(children(parse_xml(answer.body)))
            if "Containers" not in found or "NextMarker" not in found:
                raise Corrupt("a list of containers that is not whole")
            names += [texts(each).get("Name", "") for _, each in children(found["Containers"])]
            marker = found["NextMarker"].text or ""
            advance.page(len(found["Containers"]), marker)
            if not marker:
                return names

    def identify(self, key: str) -> FoundObject:
        return self._writes.identify(key)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> ListedObject:
        return self._writes.put(key, body, expect, upload)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> ListedObject:
        raise Unsupported("here every file is sent whole")

    def abandon(self, key: str, token: str) -> None:
        """Nothing: blocks that are not committed go by themselves, after a week."""

    def delete(self, key: str, expect: str | None) -> None:
        self._writes.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> ListedObject:
        return self._writes.copy(source, version, key, expect, upload)

    def copy_from(
        self,
        other: Self,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
    ) -> ListedObject:
        return self._writes.copy_from(other._writes, source, version, key, expect, upload)

    def close(self) -> None:
        self._writes.close()
        self._http.close()


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
            metadata = texts(parts["Metadata"]) if "Metadata" in parts else {}
            objects.append(_object_of(name, properties, metadata))
    return ListPage(objects, prefixes, found["NextMarker"].text or "")


def _name(element: Element) -> str:
    text = element.text or ""
    # How Azure writes names that XML can't carry.
    return unquote(text) if element.get("Encoded") == "true" else text


def _object_of(
    name: str, properties: Mapping[str, str], metadata: Mapping[str, str]
) -> ListedObject:
    try:
        size = size_in(properties["Content-Length"])
        plain = {plain_name(written.lower()): text for written, text in metadata.items()}
        mtime_ns = mtime_of(plain, properties["Last-Modified"])
        tag = opaque_tag(properties["Etag"])
        if not name or not tag:
            raise ValueError("a blob without a name or an ETag")
        return ListedObject(name, size, mtime_ns, tag, attributes_of(plain))
    except (KeyError, ValueError) as error:
        raise Corrupt(f"an unreadable entry in a listing: {name!r} {properties}") from error
