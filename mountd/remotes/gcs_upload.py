"""How a file's bytes come to Google Cloud Storage, and the proof that they are the right ones.

A small file is one request, with its sum in front. A larger one is a resumable session of two: all
but the last piece, streamed and summed on the way, and the last piece with the sum of the whole,
which Google compares before the object is there.

https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

import contextlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from typing_extensions import Buffer

from mountd.errors import Corrupt, RemoteError, Throttled, Unreachable
from mountd.remotes.base import Body, Upload
from mountd.remotes.body_sum import RunningSum, sum_of
from mountd.remotes.gcs_http import JSON_TYPE, GcsHttp, json_of
from mountd.remotes.gcs_session import (
    end_session,
    error_of_session,
    goal_of,
    kept_before,
    kept_bytes,
    session_in,
    token_of,
)
from mountd.remotes.request_body import SentBody
from mountd.remotes.rest import RestAnswer
from mountd.remotes.upload_tokens import may_go_on, tell

# Held in memory, with its sum in front; a session would cost two round trips more.
ONE_REQUEST_BYTES = 4 << 20
# What comes before the last piece is a multiple of this.
SESSION_UNIT_BYTES = 256 << 10
_PAUSES_S = (0.2, 1.0)
_MAX_PAUSE_S = 5.0


def upload(
    http: GcsHttp,
    query: Mapping[str, str],
    resource: Mapping[str, Any],
    body: Body,
    how: Upload,
) -> dict[str, Any]:
    """The object's resource as Google answers it, with `crc32c` compared.

    `resource` is what the object shall have beside its bytes, its name at least; `query` has the
    condition, and fields that include `generation`, `size` and `crc32c`; `how` has `resume` and
    `progress`. Raises as `RemoteStore.put`. An object that isn't what was sent is removed again.
    """
    if body.size <= ONE_REQUEST_BYTES:
        data = body.read(0, body.size)
        crc32c = sum_of(data)
        made = _at_once(http, query, {**resource, "crc32c": crc32c}, data)
    else:
        made, crc32c = _in_session(http, query, resource, body, how)
    if made.get("crc32c", crc32c) != crc32c or str(made.get("size")) != str(body.size):
        _remove_again(http, resource["name"], str(made.get("generation", "")))
        raise Corrupt(f"{http.what(resource['name'])}: what arrived is not what was sent")
    return made


def _at_once(
    http: GcsHttp, query: Mapping[str, str], resource: Mapping[str, Any], data: Buffer
) -> dict[str, Any]:
    boundary = secrets.token_hex(16)
    kind = resource.get("contentType", "application/octet-stream")
    head = (
        f"--{boundary}\r\nContent-Type: {JSON_TYPE}\r\n\r\n{json.dumps(resource)}\r\n"
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n"
    ).encode()
    parts = (head, data, f"\r\n--{boundary}--\r\n".encode())
    answer = http.send(
        "POST",
        http.upload_path,
        {"uploadType": "multipart", **query},
        {"Content-Type": f"multipart/related; boundary={boundary}"},
        body=SentBody(sum(memoryview(part).nbytes for part in parts), lambda: parts),
    )
    if answer.status != 200:
        raise _error_of_begin(http, answer, resource["name"])
    return json_of(answer)


def _in_session(
    http: GcsHttp,
    query: Mapping[str, str],
    resource: Mapping[str, Any],
    body: Body,
    how: Upload,
) -> tuple[dict[str, Any], str]:
    """The resource, and the sum of what was sent."""
    key = resource["name"]
    session, at = _session(http, query, resource, body.size, how)
    token = token_of(http, session, goal_of(query, resource, body.size))
    is_known = bool(token) and tell(how, token)
    try:
        made = _fill(http, session, key, body, at)
    except BaseException as error:
        if not (is_known and may_go_on(error)):
            with contextlib.suppress(RemoteError):
                end_session(http, key, session)
                tell(how, "")
        raise
    tell(how, "")
    return made


def _session(
    http: GcsHttp, query: Mapping[str, str], resource: Mapping[str, Any], size: int, how: Upload
) -> tuple[str, int]:
    """The one of an earlier try, if it is for the very same, or a new one; and what it has."""
    key = resource["name"]
    before = session_in(http, how.resume)
    if before:
        is_same = session_in(http, how.resume, goal_of(query, resource, size)) == before
        kept = kept_before(http, key, before, size) if is_same else None
        if kept is not None and kept <= _start_of_last(size):
            return before, kept
        end_session(http, key, before)
    begun = http.send(
        "POST",
        http.upload_path,
        {"uploadType": "resumable", **query},
        {"Content-Type": JSON_TYPE, "X-Upload-Content-Length": str(size)},
        body=json.dumps(resource).encode(),
    )
    if begun.status not in (200, 201):
        raise _error_of_begin(http, begun, key)
    return http.target_of(begun.header("location")), 0


def _fill(http: GcsHttp, session: str, key: str, body: Body, at: int) -> tuple[dict[str, Any], str]:
    """`at`: so many bytes are there."""
    total = body.size
    last = _start_of_last(total)
    running = RunningSum(body)
    running.pass_by(at)
    _send_first(http, session, key, running, at, last, total)
    data = body.read(last, total)
    crc32c = running.with_last(last, data)
    place = {
        "Content-Range": f"bytes {last}-{total - 1}/{total}",
        "X-Goog-Hash": f"crc32c={crc32c}",
    }
    # Sent once: whether a lost answer made the object is for the sync queue to find out.
    answer = http.send_to("PUT", session, place, body=data)
    if answer.status not in (200, 201):
        raise error_of_session(http, answer, key)
    return json_of(answer), crc32c


def _send_first(
    http: GcsHttp, session: str, key: str, running: RunningSum, at: int, end: int, total: int
) -> None:
    """The bytes [at, end). Nothing is seen of them yet, so after a cut connection it goes on from
    where the session is, as often as that helps."""
    failures = 0
    while at < end:
        place = {"Content-Range": f"bytes {at}-{end - 1}/{total}"}
        try:
            kept = kept_bytes(
                http, key, http.send_to("PUT", session, place, body=running.sent(at, end))
            )
            if kept <= at:
                raise Unreachable(f"{http.what(key)}: nothing of it was kept", answered=True)
        except (Unreachable, Throttled) as error:
            asked_s = (error.retry_after_s or 0.0) if isinstance(error, Throttled) else 0.0
            if running.body_failed or failures == len(_PAUSES_S) or asked_s > _MAX_PAUSE_S:
                raise
            time.sleep(max(asked_s, _PAUSES_S[failures]))
            asked = {"Content-Range": f"bytes */{total}"}
            kept = kept_bytes(http, key, http.send_to("PUT", session, asked))
            failures = 0 if kept > at else failures + 1
        if not at <= kept <= end:
            raise Unreachable(f"{http.what(key)}: {kept} of {end} bytes are kept", answered=True)
        at = kept


def _start_of_last(total: int) -> int:
    return (total - 1) // SESSION_UNIT_BYTES * SESSION_UNIT_BYTES


def _error_of_begin(http: GcsHttp, answer: RestAnswer, key: str) -> RemoteError:
    # Nothing but the bucket can be missing yet.
    return http.bucket_missing() if answer.status == 404 else http.error(answer, key)


def _remove_again(http: GcsHttp, key: str, generation: str) -> None:
    with contextlib.suppress(RemoteError):
        http.send("DELETE", http.object_path(key), {"ifGenerationMatch": generation})
