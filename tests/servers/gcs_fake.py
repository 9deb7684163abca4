"""GCS as its documents describe it, for what gcp-storage-emulator lacks.

The XML API's GET (what obstore reads by) with generations, the JSON API's objects.get, media and
objects.list with pages and preconditions, and a bearer token that is checked. Ours, so it proves
less than a real bucket would: names, fields and statuses are from the documentation.

https://cloud.google.com/storage/docs/xml-api/get-object-download
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "the-token"
_JSON_BASE = "/storage/v1/b/"


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    generation: int
    created: datetime


@dataclass(slots=True)
class GcsFake:
    """The objects of one bucket. `xml_gets` are the paths that the XML API was asked for."""

    bucket: str = "contract"
    endpoint: str = ""
    objects: dict[str, _Object] = field(default_factory=dict)
    xml_gets: list[str] = field(default_factory=list)
    fail_with: int = 0
    _generations: Iterator[int] = field(default_factory=lambda: count(1_700_000_000_000_000))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self.objects[key] = _Object(data, next(self._generations), datetime.now(UTC))

    def remove(self, key: str) -> None:
        with self._lock:
            del self.objects[key]

    def snapshot(self) -> dict[str, _Object]:
        with self._lock:
            return dict(self.objects)


@contextmanager
def running_gcs_fake() -> Iterator[GcsFake]:
    fake = GcsFake()

    class Handler(_Handler):
        served = fake

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    served: GcsFake
    protocol_version = "HTTP/1.1"
    # An idle kept-alive connection would keep its thread, and with it server_close.
    timeout = 5

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.served.fail_with:
            self._answer(self.served.fail_with, b"", {"Retry-After": "3"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, b"")
        elif parts.path.startswith(_JSON_BASE):
            bucket, _, key = parts.path.removeprefix(_JSON_BASE).partition("/o")
            self._json(unquote(bucket), unquote(key.removeprefix("/")), query)
        else:
            bucket, _, key = parts.path[1:].partition("/")
            self.served.xml_gets.append(self.path)
            self._xml(unquote(bucket), unquote(key), query)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _xml(self, bucket: str, key: str, query: Mapping[str, str]) -> None:
        found = self.served.snapshot().get(key) if bucket == self.served.bucket else None
        wanted = query.get("generation")
        if found is None or (wanted and wanted != str(found.generation)):
            code = "NoSuchKey" if bucket == self.served.bucket else "NoSuchBucket"
            self._answer(404, f"<Error><Code>{code}</Code></Error>".encode())
        else:
            self._media(found)

    def _json(self, bucket: str, key: str, query: Mapping[str, str]) -> None:
        objects = self.served.snapshot()
        if bucket != self.served.bucket or (key and key not in objects):
            self._answer(404, b'{"error": {"code": 404, "errors": [{"reason": "notFound"}]}}')
        elif not key:
            self._answer(200, json.dumps(_listing(objects, query)).encode())
        elif query.get("alt") != "media":
            self._answer(200, json.dumps(_resource(key, objects[key])).encode())
        elif query.get("ifGenerationMatch") not in (None, str(objects[key].generation)):
            self._answer(412, b"{}")
        else:
            self._media(objects[key])

    def _media(self, found: _Object) -> None:
        headers = {
            "x-goog-generation": str(found.generation),
            "ETag": f'"{found.generation:x}"',
            "Last-Modified": found.created.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, len(found.data))
        if start >= len(found.data):
            self._answer(416, b"", headers)
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(found.data)}"
        self._answer(206, found.data[start:end], headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _resource(key: str, found: _Object) -> dict[str, str]:
    return {
        "name": key,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "timeCreated": found.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _listing(objects: Mapping[str, _Object], query: Mapping[str, str]) -> dict[str, object]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    names: dict[str, bool] = {}
    for key in sorted(objects):
        if key.startswith(prefix):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            names[prefix + head + cut if delimiter else key] = bool(cut)
    after = [name for name in names if name > query.get("pageToken", "")]
    page = after[: int(query.get("maxResults", "1000"))]
    answer: dict[str, object] = {
        "items": [_resource(name, objects[name]) for name in page if not names[name]],
        "prefixes": [name for name in page if names[name]],
    }
    if len(page) < len(after):
        answer["nextPageToken"] = page[-1]
    return {name: value for name, value in answer.items() if value}
