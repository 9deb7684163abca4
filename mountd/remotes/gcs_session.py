"""A resumable session: its token, what it has by now, and its end.

A session has its condition and its metadata from its beginning, so it is only gone on with for the
very same. Its bytes have no sum before the end: the sum of the whole goes with the last piece.

https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from mountd.errors import RemoteError, Unreachable
from mountd.remotes.gcs_http import GcsHttp
from mountd.remotes.rest import RestAnswer
from mountd.remotes.upload_tokens import is_token

RESUME_INCOMPLETE = 308
_END_TIMEOUT_S = 2.0
_LEAD = "gcs-session"
_KEPT_RANGE = re.compile(r"bytes=0-(\d{1,18})", re.ASCII)
# It is complete, cancelled, over, or was never there.
_GONE = (200, 201, 400, 404, 410, 412, 499)


def goal_of(query: Mapping[str, str], resource: Mapping[str, Any], size: int) -> str:
    """What a session is for, in one word."""
    text = json.dumps([dict(query), dict(resource), size], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def token_of(http: GcsHttp, session: str, goal: str) -> str:
    """ "" where it can't be found again by one."""
    token = f"{_LEAD} {goal} {session}"
    return token if is_token(token) and session_in(http, token) else ""


def session_in(http: GcsHttp, token: str, goal: str | None = None) -> str:
    """The session's target; "" for a token of something else, or of another goal."""
    lead, _, rest = token.partition(" ")
    found, _, session = rest.partition(" ")
    is_ours = lead == _LEAD and session.startswith(f"{http.upload_path}?") and is_token(token)
    return session if is_ours and goal in (None, found) else ""


def kept_bytes(http: GcsHttp, key: str, answer: RestAnswer) -> int:
    """How much of a session's bytes the server has for good."""
    if answer.status != RESUME_INCOMPLETE:
        raise error_of_session(http, answer, key)
    match = _KEPT_RANGE.fullmatch(answer.header("range"))
    return int(match[1]) + 1 if match else 0


def kept_before(http: GcsHttp, key: str, session: str, total: int) -> int | None:
    """The same of a session of another try; None where it can't be gone on with."""
    answer = http.send_to("PUT", session, {"Content-Range": f"bytes */{total}"})
    if answer.status in _GONE:
        return None
    return kept_bytes(http, key, answer)


def end_session(http: GcsHttp, key: str, session: str) -> None:
    """Nobody goes on with it. One that is left behind ends after a week."""
    answer = http.send_to("DELETE", session, {}, timeout_s=_END_TIMEOUT_S)
    if answer.status >= 300 and answer.status not in _GONE:
        raise http.error(answer, key)


def error_of_session(http: GcsHttp, answer: RestAnswer, key: str) -> RemoteError:
    if answer.status in (200, 201, 308, 404, 410, 499):
        # It is the session that is gone or confused: nothing is said about the object.
        text = f"{http.what(key)}: the upload's session answers {answer.status}"
        return Unreachable(text, answered=True)
    return http.error(answer, key)
