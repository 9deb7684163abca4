"""A server that speaks plain HTTP where HTTPS is asked for.

One that sees no HTTP in a TLS greeting may wait for the rest of it, and so do we, until the call's
time is over. So a greeting that is not answered, or not with TLS, is followed by one look at what
is spoken there: a HEAD of / on another connection, without credentials.
"""

import re
import socket
import ssl
import time
from typing import Final

WHY: Final = (
    "it speaks plain http there, and no https; if that is the right server and anybody on the way "
    "may read everything, the password too, write http:// (endpoint=http://HOST:PORT, or "
    "webdav+http://)"
)
_LOOK_AFTER_S: Final = 3.0
_LOOK_AGAIN_AFTER_S: Final = 0.2
_LOOK_TIMEOUT_S: Final = 2.0
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
# What a server says to plain HTTP on its port for HTTPS.
_NO_PROOF: Final = frozenset((400, 421, 426, 497))
# Who sends us on within plain HTTP speaks it, as a Nextcloud to its login page; else it may be a
# port for HTTPS that sends us there.
_STAYS_PLAIN: Final = re.compile(rb"\r\nlocation:[ \t]*(?:http:|/)", re.IGNORECASE)
_MAX_HEAD_BYTES: Final = 16 << 10

_seen_plain: Final[set[object]] = set()  # addresses that are looked at sooner; no more hangs on it


class SpeaksPlainHttp(ssl.SSLError):
    """The other side answers HTTP without TLS."""


class LookingSocket(ssl.SSLSocket):
    """As `SSLSocket`, for `SSLContext.sslsocket_class`. Not for a connection through a proxy:
    that one speaks plain HTTP."""

    def do_handshake(self, block: bool = False) -> None:
        """Within the socket's own timeout, and a look more. Raises SpeaksPlainHttp, too."""
        limit_s = self.gettimeout()
        began_s = time.monotonic()
        first_s = _LOOK_AGAIN_AFTER_S if self.getpeername() in _seen_plain else _LOOK_AFTER_S
        self.settimeout(first_s if limit_s is None else min(limit_s, first_s))
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:  # a timeout and ssl.SSLError are
            if self._is_plain():
                _seen_plain.add(self.getpeername())
                raise SpeaksPlainHttp(ssl.SSL_ERROR_SSL, WHY) from error
            left_s = None if limit_s is None else limit_s - (time.monotonic() - began_s)
            if not isinstance(error, TimeoutError) or (left_s is not None and left_s <= 0):
                raise
            self.settimeout(left_s)
            super().do_handshake(block)
        self.settimeout(limit_s)

    def _is_plain(self) -> bool:
        try:
            return speaks_plain_http(self.getpeername())
        except OSError:
            return False


def speaks_plain_http(address: tuple[str, int] | tuple[str, int, int, int]) -> bool:
    """Asks once; False where that is not certain. Raises OSError."""
    with socket.create_connection(address[:2], _LOOK_TIMEOUT_S) as plain:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        plain.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        until_s = time.monotonic() + _LOOK_TIMEOUT_S
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD_BYTES:
            more = plain.recv(4096)
            head += more
            if not more or time.monotonic() > until_s:
                break
    found = _STATUS.match(head)
    if found is not None and found[1].startswith(b"3"):
        return _STAYS_PLAIN.search(head) is not None
    return found is not None and int(found[1]) not in _NO_PROOF
