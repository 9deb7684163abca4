"""Login Flow v2: an app password that the user grants in the browser.

https://docs.nextcloud.com/server/latest/developer_manual/client_apis/LoginFlow/index.html#login-flow-v2
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from mountd.errors import Denied, NotFound, RemoteError, Throttled, Unreachable, Unsupported
from mountd.remotes.http_pool import Answer, HttpPool
from mountd.remotes.http_status import error_of_status
from mountd.remotes.tls import VERIFIED, Tls

_BEGIN = "/index.php/login/v2"
_WHO_AM_I = "/ocs/v2.php/cloud/user?format=json"
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_MAX_ANSWER_BYTES = 1 << 20
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Granted:
    """`server` is what the server calls itself. `user`: the account's name in paths."""

    server: str
    user: str
    login_name: str
    password: str = field(repr=False)


class LoginFlow:
    """One sign-in at `server` (`https://host[:port][/folder]`). Blocking.

    Everything is asked of that server, also where its answers name another one: behind a proxy
    that it wasn't told of, a Nextcloud gives itself wrong names.
    """

    def __init__(self, server: str, client: str, tls: Tls = VERIFIED) -> None:
        """`client`: how the app password will be called in the account's settings."""
        parts = urlsplit(server)
        self._root = parts.path
        headers = {"User-Agent": client, "Accept": "application/json"}
        self._pool = HttpPool(f"{parts.scheme}://{parts.netloc}", headers, 1, _TIMEOUT_S, tls=tls)
        self._poll_target, self._token = "", ""

    def begin(self) -> str:
        """The URL to open in a browser. Raises RemoteError; Unsupported where no Nextcloud is."""
        try:
            told = self._ask("POST", self._root + _BEGIN, {}, b"")
        except (Denied, NotFound, Unsupported) as error:
            raise Unsupported(f"there is no Nextcloud with a login page: {error}") from error
        url = _text(told, "login")
        endpoint = urlsplit(_text(told, "poll", "endpoint"))
        self._token = _text(told, "poll", "token")
        self._poll_target = endpoint.path
        is_page = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
        if not (is_page and self._token and endpoint.path.startswith("/")):
            raise Unsupported(f"{self._pool.origin}{self._root}: that is no answer of a Nextcloud")
        return url

    def poll(self) -> Granted | None:
        """None until somebody has granted it, and after an answer that may be better next time.
        Raises any other RemoteError."""
        body = urlencode({"token": self._token}).encode()
        try:
            told = self._ask("POST", self._poll_target, _FORM, body)
        except (NotFound, Unreachable, Throttled):
            return None
        server, login_name, password = (
            _text(told, name) for name in ("server", "loginName", "appPassword")
        )
        if not (login_name and password):
            raise Unsupported(f"{self._pool.origin}: it granted no user and password")
        return Granted(server, self._user(login_name, password), login_name, password)

    def close(self) -> None:
        self._pool.close()

    def _user(self, login_name: str, password: str) -> str:
        """The account's name. One may sign in with an e-mail address, which no path has."""
        pair = base64.b64encode(f"{login_name}:{password}".encode()).decode("ascii")
        headers = {"Authorization": f"Basic {pair}", "OCS-APIRequest": "true"}
        try:
            told = self._ask("GET", self._root + _WHO_AM_I, headers, b"")
        except Denied:
            raise
        except RemoteError:
            return login_name
        return _text(told, "ocs", "data", "id") or login_name

    def _ask(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Any:
        with self._pool.ask(method, target, headers, body) as answer:
            if answer.status != 200:
                retry_after = answer.headers.get("retry-after")
                raise error_of_status(answer.status, answer.what, retry_after)
            return _json(answer)


def _json(answer: Answer) -> Any:
    data = b""
    while chunk := answer.chunk():
        data += chunk
        if len(data) > _MAX_ANSWER_BYTES:
            raise Unsupported(f"{answer.what}: too long an answer")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unsupported(f"{answer.what}: that is no answer of a Nextcloud") from error


def _text(data: Any, *names: str) -> str:
    """ "" for what isn't there or could harm a header, a path or a terminal."""
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    is_one = isinstance(data, str) and data.isprintable() and len(data) < 4096
    return data if is_one else ""
