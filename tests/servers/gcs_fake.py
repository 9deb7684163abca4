"""GCS as its documents describe it, for what gcp-storage-emulator lacks.

The XML API's GET (what obstore reads by) with generations, the JSON API's objects.get, media and
objects.list with pages and preconditions, its writes (gcs_fake_writes.py), and a bearer token that
is checked. Ours, so it proves less than a real bucket would: names, fields and statuses are from
the documentation.

https://cloud.google.com/storage/docs/xml-api/get-object-download
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.gcs_fake_state import FakeObject, FakeRequest, GcsFake, Refused, resource_of
from tests.servers.gcs_fake_writes import change, keep_part

TOKEN = "the-token"
_JSON_BASE = "/storage/v1/b/"


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
    # An answer is two writes; without this the second waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True

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

    def do_POST(self) -> None:
        self._change()

    do_PUT = do_DELETE = do_POST

    def _change(self) -> None:
        served = self.served
        headers = {name.lower(): text for name, text in self.headers.items()}
        size = int(headers.get("content-length", "0"))
        is_cut = self.command == "PUT" and size > 0 and bool(served.cut_after)
        data = self.rfile.read(served.cut_after.pop(0) if is_cut else size)
        request = FakeRequest(self.command, self.path, headers, len(data))
        if is_cut:
            with served.lock:
                served.changes.append(request)
                keep_part(served, request, data)
            self.close_connection = True
            return
        if served.fail_with:
            self._answer(served.fail_with, b"", {"Retry-After": "3"})
            return
        if headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(401, b"")
            return
        with served.lock:
            served.changes.append(request)
            try:
                status, answer, more = change(served, request, data)
            except Refused as refused:
                status, answer, more = refused.status, refused.body(), {}
            lost, served.lose_answer = served.lose_answer and status < 300, False
        if lost:
            self.close_connection = True
        else:
            self._answer(status, json.dumps(answer).encode() if answer else b"", more)

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
            self._answer(200, json.dumps(resource_of(key, objects[key])).encode())
        elif query.get("ifGenerationMatch") not in (None, str(objects[key].generation)):
            self._answer(412, json.dumps(Refused(412, "conditionNotMet").body()).encode())
        else:
            self._media(objects[key])

    def _media(self, found: FakeObject) -> None:
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


def _listing(objects: Mapping[str, FakeObject], query: Mapping[str, str]) -> dict[str, object]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    names: dict[str, bool] = {}
    for key in sorted(objects):
        if key.startswith(prefix):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            names[prefix + head + cut if delimiter else key] = bool(cut)
    after = [name for name in names if name > query.get("pageToken", "")]
    page = after[: int(query.get("maxResults", "1000"))]
    answer: dict[str, object] = {
        "items": [resource_of(name, objects[name]) for name in page if not names[name]],
        "prefixes": [name for name in page if names[name]],
    }
    if len(page) < len(after):
        answer["nextPageToken"] = page[-1]
    return {name: value for name, value in answer.items() if value}
