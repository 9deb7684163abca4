"""A response as bytes: head, spans, and how the connection ends. Faults spoil it here."""

import time
from enum import Enum
from itertools import count

from tests.servers.s3.bodies import Body, Span, read_span
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import STATUS_TEXT, Response, http_date

_request_numbers = count(1)
# Below this a body in memory is copied behind its head, so that both leave in one segment.
JOIN_BYTES = 64 * 1024


class Ending(Enum):
    KEEP = 0
    FIN = 1
    RESET = 2


class Outgoing:
    """What is sent: the spans, the first of which holds the head, and what follows them."""

    __slots__ = ("body_size", "ending", "spans")

    def __init__(self, spans: list[Span], body_size: int, ending: Ending) -> None:
        self.spans = spans
        self.body_size = body_size
        self.ending = ending


def render(response: Response, effects: Effects, *, head_only: bool) -> Outgoing:
    body = response.body
    size = body.size if isinstance(body, Body) else len(body)
    ending = Ending.FIN if response.close else Ending.KEEP
    claimed = size
    if effects.extra_length and not head_only:
        claimed += effects.extra_length
        ending = Ending.FIN
    head = _head(response, claimed, effects)
    if head_only or not size:
        return Outgoing([memoryview(head)], 0, ending)
    if isinstance(body, Body):
        spans = body.spans()
    elif size <= JOIN_BYTES and effects.cut_after_bytes < 0:
        return Outgoing([memoryview(head + body)], size, ending)
    else:
        spans = [memoryview(body)]
    if effects.flip_at >= 0:
        spans = _flip(spans, effects.flip_at - response.start)
    if 0 <= effects.cut_after_bytes < size:
        spans = _first(spans, effects.cut_after_bytes)
        size = effects.cut_after_bytes
        ending = Ending.RESET if effects.cut_with_reset else Ending.FIN
    spans.insert(0, memoryview(head))
    return Outgoing(spans, size, ending)


def _head(response: Response, claimed: int, effects: Effects) -> bytes:
    headers = response.headers
    status = response.status
    if "Content-Range" in headers:
        if effects.wrong_content_range and status == 206:
            headers["Content-Range"] = _shifted(headers["Content-Range"])
        if effects.range_as_200 and status == 206:
            status = 200
    lines = [
        f"HTTP/1.1 {status} {STATUS_TEXT.get(status, 'Unknown')}\r\n"
        f"Date: {http_date(int(time.time()))}"
    ]
    if "Server" not in headers:
        lines.append(f"x-amz-request-id: {next(_request_numbers):016X}\r\nServer: AmazonS3")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status not in (204, 304):
        lines.append(f"Content-Length: {claimed}")
    if response.close:
        lines.append("Connection: close")
    lines.append("\r\n")
    # As heads are decoded: metadata comes back byte for byte.
    return "\r\n".join(lines).encode("latin-1", "replace")


def _shifted(content_range: str) -> str:
    """`bytes 10-19/100` -> `bytes 11-20/100`: an answer for another range of the same size."""
    span, _, size = content_range.removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    return f"bytes {int(first) + 1}-{int(last) + 1}/{size}"


def span_size(span: Span) -> int:
    return span[2] if isinstance(span, tuple) else len(span)


def _first(spans: list[Span], size: int) -> list[Span]:
    kept: list[Span] = []
    for span in spans:
        count_here = min(size, span_size(span))
        if not count_here:
            break
        kept.append(part_of(span, 0, count_here))
        size -= count_here
    return kept


def part_of(span: Span, start: int, end: int) -> Span:
    if isinstance(span, tuple):
        return (span[0], span[1] + start, end - start)
    return span[start:end]


def _flip(spans: list[Span], at: int) -> list[Span]:
    """Inverts the bits of byte `at` of the body; outside of the body nothing changes."""
    flipped: list[Span] = []
    for span in spans:
        size = span_size(span)
        if not 0 <= at < size:
            flipped.append(span)
        else:
            byte = read_span(part_of(span, at, at + 1))[0]
            flipped += [
                part_of(span, 0, at),
                memoryview(bytes([byte ^ 0xFF])),
                part_of(span, at + 1, size),
            ]
        at -= size
    return [span for span in flipped if span_size(span)]
