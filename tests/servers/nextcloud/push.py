"""notify_push: the websocket that says `notify_file` when an account's files changed.

On a port of its own. Framing is RFC 6455's, as little of it as the protocol needs: short text
frames both ways, ping, close. A client sends the user and then the password as text, is told
`authenticated` (or `err: Invalid credentials` and the end), and may ask for ids by
`listen notify_file_id`: then it is told `notify_file_id [7,9]` instead.

https://github.com/nextcloud/notify_push (README, "Developing")
"""

import base64
import json
import select
import socket
from collections.abc import Callable
from hashlib import sha1
from typing import Protocol

from tests.servers.nextcloud.service import Account, Service

_KEY_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_MAX_INPUT = 64 * 1024


class Loop(Protocol):
    def add(self, sock: socket.socket, handler: "PushConnection") -> None: ...

    def close(self, sock: socket.socket) -> None: ...


class PushHub:
    """Who listens, by user."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.listening: set[PushConnection] = set()
        service.announce = self.announce

    def announce(self, user: str, ids: list[int]) -> None:
        for connection in list(self.listening):
            if connection.user == user:
                connection.tell(ids)

    def account(self, user: str, password: str) -> Account | None:
        account = self.service.accounts.get(user)
        if account is None or password not in {account.password, *account.app_passwords}:
            return None
        return account


class PushConnection:
    """One websocket; a `loop.Handler`."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        hub: PushHub,
        on_close: Callable[["PushConnection"], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._hub = hub
        self._on_close = on_close
        self._input = bytearray()
        self._is_open = True
        self._is_upgraded = False
        self._wants_ids = False
        self._names: list[str] = []
        self.user = ""
        loop.add(sock, self)

    def on_event(self, mask: int) -> None:
        if not self._is_open:
            return
        if mask & (select.EPOLLERR | select.EPOLLHUP):
            self.abort()
            return
        while self._is_open:
            try:
                data = self._sock.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data or len(self._input) > _MAX_INPUT:
                self.abort()
                return
            self._input += data
            self._read()

    def abort(self) -> None:
        if self._is_open:
            self._is_open = False
            self._hub.listening.discard(self)
            self._loop.close(self._sock)
            self._on_close(self)

    def tell(self, ids: list[int]) -> None:
        self._send(_TEXT, f"notify_file_id {json.dumps(ids)}" if self._wants_ids else "notify_file")

    def _read(self) -> None:
        if not self._is_upgraded:
            head, blank, rest = bytes(self._input).partition(b"\r\n\r\n")
            if not blank:
                return
            self._input[:] = rest
            self._upgrade(head.decode("latin-1"))
        while self._is_open and (frame := self._take_frame()) is not None:
            self._on_frame(*frame)

    def _upgrade(self, head: str) -> None:
        lines = [line.partition(":") for line in head.split("\r\n")[1:]]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        key = headers.get("sec-websocket-key", "")
        if not key or not head.startswith("GET /push/ws "):
            self._raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            self.abort()
            return
        proof = base64.b64encode(sha1((key + _KEY_SUFFIX).encode()).digest()).decode()
        self._raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {proof}\r\n\r\n".encode()
        )
        self._is_upgraded = True

    def _take_frame(self) -> tuple[int, bytes] | None:
        data = self._input
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        masked = bool(data[1] & 0x80)
        end = at + 4 * masked + size
        if len(data) < end:
            return None
        if not masked or size == 127:
            self.abort()
            return None
        mask = data[at : at + 4]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[at + 4 : end]))
        opcode = data[0] & 0x0F
        del data[:end]
        return opcode, payload

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            self._send(_CLOSE, "")
            self.abort()
        elif opcode == _PING:
            self._send(_PONG, payload.decode("latin-1"))
        elif opcode == _TEXT:
            self._on_text(payload.decode("utf-8", "replace"))

    def _on_text(self, text: str) -> None:
        if self.user:
            self._wants_ids = self._wants_ids or text == "listen notify_file_id"
            return
        self._names.append(text)
        if len(self._names) < 2:
            return
        name, password = self._names
        account = self._hub.account(name, password)
        if account is None:
            self._hub.service.auth_failures += 1
            self._send(_TEXT, "err: Invalid credentials")
            self._send(_CLOSE, "")
            self.abort()
            return
        self.user = account.user
        self._hub.listening.add(self)
        self._send(_TEXT, "authenticated")

    def _send(self, opcode: int, text: str) -> None:
        data = text.encode()
        size = bytes((len(data),)) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
        self._raw(bytes((0x80 | opcode,)) + size + data)

    def _raw(self, data: bytes) -> None:
        try:
            self._sock.send(data)
        except OSError:
            self.abort()
