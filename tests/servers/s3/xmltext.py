"""XML out (plain strings, because listings must be cheap) and in (small request documents)."""

import re
import time
from collections.abc import Iterator
from functools import lru_cache
from xml.etree import ElementTree

from tests.servers.s3.message import Response, S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPECIAL = re.compile("[&<>\"'\x00-\x1f\x7f-\x9f\ufffe\uffff]")


def escape(text: str) -> str:
    """As S3 writes keys: also control characters as references, allowed in XML or not."""
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(_reference, text)


def _reference(match: re.Match[str]) -> str:
    character = match.group()
    return _NAMED.get(character) or f"&#x{ord(character):x};"


_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


@lru_cache(maxsize=65536)
def iso_date(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(epoch_s))


def tag(name: str, text: str | int | bool) -> str:
    if isinstance(text, bool):
        text = "true" if text else "false"
    return f"<{name}>{escape(str(text))}</{name}>"


def document(root: str, inner: str, status: int = 200) -> Response:
    text = f'{DECLARATION}<{root} xmlns="{NAMESPACE}">{inner}</{root}>'
    return Response(status, {"Content-Type": "application/xml"}, text.encode())


def error_document(error: S3Error, resource: str) -> Response:
    inner = tag("Code", error.code) + tag("Message", error.message)
    inner += "".join(tag(name, value) for name, value in error.detail.items())
    inner += tag("Resource", resource) + "<RequestId>0</RequestId><HostId>test</HostId>"
    headers = {"Content-Type": "application/xml"} | error.headers
    text = f"{DECLARATION}<Error>{inner}</Error>"
    return Response(error.status, headers, text.encode("utf-8", "surrogateescape"))


def parse(data: bytes, root: str) -> ElementTree.Element:
    """The document's root without namespaces. Raises MalformedXML."""
    try:
        parsed = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise malformed() from error
    for element in parsed.iter():
        element.tag = element.tag.rpartition("}")[2]
    if parsed.tag != root:
        raise malformed()
    return parsed


def texts(parent: ElementTree.Element, names: tuple[str, ...]) -> Iterator[str | None]:
    for name in names:
        yield parent.findtext(name)


def malformed() -> S3Error:
    return S3Error(
        400,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
