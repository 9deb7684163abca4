"""The Nextcloud-shaped server's notify_push, spoken to byte by byte."""

import json
import os
import socket
from urllib.parse import urlsplit

import pytest

from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.raw_nextcloud import raw_dav

pytestmark = pytest.mark.server


class Listening:
    """A websocket client that knows short text frames."""

    def __init__(self, server: NextcloudServer) -> None:
        server.configure(notify_push=True)
        with raw_dav(server) as dav:
            target = "/ocs/v2.php/cloud/capabilities?format=json"
            told = dav.raw("GET", target, b"", {"OCS-APIRequest": "true"})
        able = json.loads(told.body)["ocs"]["data"]["capabilities"]["notify_push"]
        url = urlsplit(able["endpoints"]["websocket"])
        self._sock = socket.create_connection((url.hostname or "", url.port or 0), timeout=10)
        self._sock.sendall(
            f"GET {url.path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "\r\n".encode()
        )
        self._file = self._sock.makefile("rb")
        head = b"".join(iter(self._file.readline, b"\r\n"))
        # The example of RFC 6455, 1.3.
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head

    def say(self, text: str) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(text.encode()))
        self._sock.sendall(bytes((0x81, 0x80 | len(masked))) + mask + masked)

    def hear(self) -> str:
        """The next text; "" when the server closes."""
        head = self._file.read(2)
        if head[:1] != b"\x81":
            return ""
        return self._file.read(head[1]).decode()

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def test_a_change_is_told_to_who_signed_in(nextcloud_server: NextcloudServer) -> None:
    listening = Listening(nextcloud_server)
    for text in (nextcloud_server.user, nextcloud_server.password):
        listening.say(text)
    assert listening.hear() == "authenticated"
    fileid = nextcloud_server.put("f", b"1").fileid
    assert listening.hear() == "notify_file"
    listening.say("listen notify_file_id")
    with raw_dav(nextcloud_server) as dav:
        dav.files("PUT", "g", b"1")
        assert listening.hear().startswith("notify_file")
        dav.files("DELETE", "f")
    assert listening.hear() == f"notify_file_id [{fileid}]"
    nextcloud_server.refuse_push()
    assert listening.hear() == ""
    listening.close()


def test_a_wrong_password_is_told_and_counted(nextcloud_server: NextcloudServer) -> None:
    listening = Listening(nextcloud_server)
    listening.say("tester")
    listening.say("wrong")
    assert listening.hear() == "err: Invalid credentials"
    assert listening.hear() == ""
    assert nextcloud_server.auth_failures() == 1
    listening.close()
