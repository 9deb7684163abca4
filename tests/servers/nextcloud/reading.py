"""GET and HEAD of files, and of folders as tar."""

import re
import tarfile

from tests.servers.nextcloud.conditions import Target, check_conditions
from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Service
from tests.servers.nextcloud.tree import Node
from tests.servers.s3.bodies import Body, Extent, MemorySource
from tests.servers.s3.knobs import Effects
from tests.servers.s3.message import Request, Response, http_date, parse_http_date

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.IGNORECASE)


def shown_etag(service: Service, request: Request, etag: str) -> str:
    """The ETag header: a web server that compresses may change it on its way (not OC-ETag)."""
    compressed = service.settings.gzip_etags and "gzip" in request.headers.get(
        "accept-encoding", ""
    )
    return f'"{etag}-gzip"' if compressed else f'"{etag}"'


def target_of(node: Node | None) -> Target | None:
    if node is None:
        return None
    return Target(None if node.is_folder else f'"{node.etag}"', node.mtime_s)


def read(service: Service, request: Request, node: Node, effects: Effects) -> Response:
    if not effects.ignore_conditionals and not check_conditions(request, target_of(node)):
        return Response(304, {"ETag": f'"{node.etag}"'})
    if node.is_folder:
        return _read_folder(service, request, node)
    headers = {
        "ETag": shown_etag(service, request, node.etag),
        "OC-ETag": f'"{node.etag}"',
        "Last-Modified": http_date(node.mtime_s),
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
        "Accept-Ranges": "bytes",
        "X-Accel-Buffering": "no",
    }
    if node.checksum:
        headers["OC-Checksum"] = node.checksum
    span = None
    text = request.headers.get("range", "")
    if text and not effects.ignore_range and _if_range_holds(request, node):
        # SabreDAV takes an end of 0 for none: a 206 with everything (measured on 32.0.1).
        is_open = service.settings.zero_end_is_open and text == "bytes=0-0"
        span = _span("bytes=0-" if is_open else text, node.size)
    if span is None:
        return Response(200, headers, node.body)
    start, end = span
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{node.size}"
    response = Response(206, headers, node.body.cut(start, end))
    response.start = start
    return response


def _span(text: str, size: int) -> tuple[int, int] | None:
    """[start, end) of a Range; None for what SabreDAV ignores (several ranges, an empty file)."""
    found = _RANGE.fullmatch(text)
    if found is None or not size or text == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    start = int(first)
    if start >= size:
        raise refused(416, f"The start offset ({start}) exceeded the size of the entity ({size})")
    if last and int(last) < start:
        raise refused(416, f"The end offset ({last}) is lower than the start offset ({start})")
    return start, min(int(last) + 1, size) if last else size


def _if_range_holds(request: Request, node: Node) -> bool:
    wanted = request.headers.get("if-range")
    if not wanted:
        return True
    when = parse_http_date(wanted) if '"' not in wanted else None
    return wanted == f'"{node.etag}"' if when is None else node.mtime_s <= when


def _read_folder(service: Service, request: Request, folder: Node) -> Response:
    if service.settings.folder_tar and "application/x-tar" in request.headers.get("accept", ""):
        headers = {
            "Content-Type": "application/x-tar",
            "Content-Disposition": "attachment",
            "X-Accel-Buffering": "no",
        }
        return Response(200, headers, tar_of(folder))
    return Response(200, {"Content-Type": "text/html; charset=UTF-8"})


def tar_of(folder: Node) -> Body:
    """The folder and all below it, under its own name; contents aren't copied."""
    extents: list[Extent] = []
    base = folder.path()
    lead = folder.name or "files"

    def add(data: bytes) -> None:
        extents.append(Extent(MemorySource(data), 0, len(data)))

    for node in folder.walk():
        inner = node.path().removeprefix(base).strip("/")
        info = tarfile.TarInfo(f"{lead}/{inner}" if inner else lead)
        info.mtime = node.mtime_s
        if node.is_folder:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            add(info.tobuf(tarfile.PAX_FORMAT))
            continue
        info.size, info.mode = node.size, 0o644
        add(info.tobuf(tarfile.PAX_FORMAT))
        extents += node.body.extents
        if node.size % 512:
            add(bytes(512 - node.size % 512))
    add(bytes(1024))
    return Body(tuple(extents))
