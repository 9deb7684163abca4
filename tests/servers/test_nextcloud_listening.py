"""What mountd hears on notify_push, and what it does when it hears nothing."""

import base64
import math
import time
from collections.abc import Callable

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from mountd.errors import Unreachable
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.nextcloud_features import FeaturesDoor
from mountd.remotes.nextcloud_push import Pace, PushAddress, PushListener, Settling, why_not
from mountd.remotes.sign_in import SignIn
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = pytest.mark.server

SOON = Pace(again_s=(0.01, 0.05), at_most_every_s=(0.0, 0.0), steady_s=0.0)
WITHIN_S = 15.0


class Heard:
    """Counts what was heard; `wait_for` waits for the n-th."""

    def __init__(self) -> None:
        self.count = 0
        self._more = trio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._more.set()
        self._more = trio.Event()

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(WITHIN_S):
            while self.count < count:
                await self._more.wait()


def address_at(server: NextcloudServer, password: str = "") -> PushAddress:
    server.configure(notify_push=True)
    pair = base64.b64encode(f"{server.user}:{server.password}".encode()).decode()
    pool = HttpPool(server.url, {"Authorization": f"Basic {pair}"}, 1, 10.0)
    url = FeaturesDoor(pool, "").get().push_url
    pool.close()
    return PushAddress(url, server.url, server.user, password or server.password)


def wait_until_nobody_listens(server: NextcloudServer) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while server.stats()["push_connections"]:
        assert time.monotonic() < deadline_s


async def listening(
    nursery: trio.Nursery, find: Callable[[], PushAddress | None], pace: Pace = SOON
) -> Heard:
    """Once the first connection is signed in: that is told as a change, too."""
    heard = Heard()

    async def run() -> None:
        await PushListener(find, SignIn(), heard, lambda: 0, pace=pace).run()

    nursery.start_soon(run)
    await heard.wait_for(1)
    return heard


async def test_a_change_is_heard_at_once_and_the_end_closes_the_connection(
    nextcloud_server: NextcloudServer,
) -> None:
    address = address_at(nextcloud_server)
    async with trio.open_nursery() as nursery:
        heard = await listening(nursery, lambda: address)
        nextcloud_server.put("f", b"1")
        await heard.wait_for(2)
        nextcloud_server.delete("f")
        await heard.wait_for(3)
        assert nextcloud_server.stats()["push_connections"] == 1
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(wait_until_nobody_listens, nextcloud_server)


async def test_a_lost_connection_is_made_anew_and_counts_as_a_change(
    nextcloud_server: NextcloudServer,
) -> None:
    address = address_at(nextcloud_server)
    async with trio.open_nursery() as nursery:
        heard = await listening(nursery, lambda: address)
        nextcloud_server.refuse_push()
        await trio.sleep(0.1)  # some attempts fail
        nextcloud_server.accept_push()
        await heard.wait_for(2)
        nextcloud_server.put("f", b"1")
        await heard.wait_for(3)
        nursery.cancel_scope.cancel()
    assert nextcloud_server.auth_failures() == 0


async def test_a_wrong_password_is_sent_once(nextcloud_server: NextcloudServer) -> None:
    address = address_at(nextcloud_server, "wrong")
    with trio.fail_after(WITHIN_S):
        await PushListener(lambda: address, SignIn(), Heard(), lambda: 0, pace=SOON).run()
    assert nextcloud_server.auth_failures() == 1


async def test_where_the_server_refuses_the_sign_in_elsewhere_push_is_not_tried(
    nextcloud_server: NextcloudServer,
) -> None:
    address, asked = address_at(nextcloud_server), list[int]()
    sign_in = SignIn()
    sign_in.heard(401)

    def find() -> PushAddress | None:
        asked.append(nextcloud_server.stats()["push_connections"])
        return address if len(asked) < 4 else None

    with trio.fail_after(WITHIN_S):
        await PushListener(find, sign_in, Heard(), lambda: 0, pace=SOON).run()
    assert asked == [0, 0, 0, 0]


async def test_an_unreachable_server_is_asked_again_and_one_without_push_is_not(
    nextcloud_server: NextcloudServer,
) -> None:
    answers: list[PushAddress | None] = [None, address_at(nextcloud_server, "wrong")]

    def find() -> PushAddress | None:
        if len(answers) == 2:
            answers.pop()
            raise Unreachable("no answer in time")
        return answers[0]

    with trio.fail_after(WITHIN_S):
        await PushListener(find, SignIn(), Heard(), lambda: 0, pace=SOON).run()
    assert nextcloud_server.auth_failures() == 0


@pytest.mark.parametrize("says", ["", "err: Error while communicating with nextcloud instance"])
async def test_a_peer_that_falls_silent_or_has_trouble_is_connected_to_anew(says: str) -> None:
    calls: list[list[str | bytes]] = []
    again = trio.Event()

    async def serve(request: WebSocketRequest) -> None:
        connection: WebSocketConnection = await request.accept()
        try:
            calls.append([await connection.get_message(), await connection.get_message()])
            if len(calls) == 2:
                again.set()
            await connection.send_message(says or "authenticated")
            # A peer that is gone: not even its pongs arrive.
            await connection.aclose() if says else await trio.sleep_forever()
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
        url = f"ws://127.0.0.1:{server.port}/push/ws"
        address = PushAddress(url, "http://127.0.0.1:1", "ann", "pw")
        # A pong takes longer than no time, always.
        pace = Pace(
            again_s=(0.01, 0.05),
            at_most_every_s=(0.0, 0.0),
            steady_s=math.inf,
            ping_every_s=0.01,
            pong_s=0.0,
        )

        async def run() -> None:
            await PushListener(lambda: address, SignIn(), Heard(), lambda: 0, pace=pace).run()

        nursery.start_soon(run)
        with trio.fail_after(WITHIN_S):
            await again.wait()
        nursery.cancel_scope.cancel()
    assert calls[:2] == [["ann", "pw"], ["ann", "pw"]]


def test_what_was_heard_is_passed_on_at_once_and_then_not_too_often() -> None:
    settling = Settling((1.0, 5.0))
    settling.heard(100.0, 0)
    assert settling.due_s == 100.0
    settling.passed_on(100.0, 0)
    assert settling.due_s == math.inf
    settling.heard(100.2, 0)
    settling.heard(100.3, 0)
    assert settling.due_s == 101.0
    settling.passed_on(101.0, 0)
    settling.heard(101.5, 7)  # our own, or not
    assert settling.due_s == 106.0
    settling.heard(101.6, 7)
    assert settling.due_s == 106.0
    settling.passed_on(106.0, 7)
    settling.heard(120.0, 7)
    assert settling.due_s == 120.0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("wss://cloud.example.org/push/ws", ""),
        ("wss://cloud.example.org:7867/ws", ""),
        ("ws://cloud.example.org/push/ws", "it has no TLS"),
        ("wss://elsewhere.example.org/push/ws", "it is on another host"),
        ("wss://cloud.example.org@elsewhere.example.org/", "it is on another host"),
        ("wss://x@cloud.example.org/", "it is on another host"),
    ],
)
def test_the_password_goes_to_no_other_host_and_not_in_clear(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    address = PushAddress(url, "https://cloud.example.org", "ann", "pw")
    assert why_not(address) == reason
    assert "pw" not in repr(address)
