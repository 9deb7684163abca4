"""What a person does with a browser on a real Nextcloud."""

import html
import re
from http.cookiejar import CookieJar
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

_TIMEOUT_S: Final = 120.0


class Browser:
    """One person's cookies. AssertionError where a page is not what it should be."""

    def __init__(self) -> None:
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()), ProxyHandler({}))
        self._opener.addheaders = [("Accept", "text/html")]  # else 401 instead of the login page

    def grant(self, url: str, user: str, password: str) -> None:
        """Opens the page of Login Flow v2, signs in there with the account's own password, and
        grants the access."""
        _, page = self._open(url)
        asked = urlencode({"stateToken": _state_token(page), "user": "", "direct": "0"})
        at, page = self._open(urljoin(url, f"../grant?{asked}"))
        if "/login?" in at or at.endswith("/login"):
            sent = {"user": user, "password": password, "requesttoken": _request_token(page)}
            at, page = self._open(at, urlencode(sent).encode())
        assert "/login/v2/grant" in at, at
        sent = {"stateToken": _state_token(page), "requesttoken": _request_token(page)}
        self._open(at.partition("?")[0], urlencode(sent).encode())

    def _open(self, url: str, body: bytes | None = None) -> tuple[str, str]:
        """Where it ended, and the page."""
        where = urlsplit(url)
        headers = {} if body is None else {"Origin": f"{where.scheme}://{where.netloc}"}
        with self._opener.open(Request(url, body, headers), timeout=_TIMEOUT_S) as answer:
            return answer.url, answer.read().decode()


def _request_token(page: str) -> str:
    found = re.search(r'data-requesttoken="([^"]+)"', page)
    assert found, page[:2000]
    return html.unescape(found[1])


def _state_token(page: str) -> str:
    found = re.search(r'name="stateToken" value="([^"]+)"', page)
    found = found or re.search(r"stateToken=(\w+)", page)
    assert found, page[:2000]
    return html.unescape(found[1])
