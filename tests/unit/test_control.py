"""The control socket: what it answers, whom it hears, and that nothing said to it kills it."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from mountd.control.client import (
    DaemonGone,
    NotAnswering,
    Refused,
    find_daemon,
    find_daemons,
    is_alive,
    request,
)
from mountd.control.runtime_dir import (
    ensure_runtime_dir,
    runtime_dir,
    searched_dirs,
    socket_name,
    socket_path,
)
from mountd.control.server import MAX_CLIENTS, MAX_REQUEST_BYTES, ControlServer, Handler
from mountd.errors import ExitCode, MountPointError, StartError
from tests.conftest import ExpectedLog


async def echo(message: dict[str, Any]) -> dict[str, Any]:
    return {"heard": message}


async def fail(message: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("a defect")


async def refuse(message: dict[str, Any]) -> dict[str, Any]:
    raise MountPointError("the mount point is busy")


async def never(message: dict[str, Any]) -> dict[str, Any]:
    await trio.sleep_forever()
    return {}


HANDLERS: dict[str, Handler] = {"echo": echo, "fail": fail, "refuse": refuse, "never": never}


@asynccontextmanager
async def serving(path: Path, **limits: float) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, HANDLERS, **limits).serve)
        yield path
        nursery.cancel_scope.cancel()


async def ask(path: Path, message: dict[str, Any], timeout_s: float = 10) -> dict[str, Any]:
    return await trio.to_thread.run_sync(partial(request, path, message, timeout_s))


async def say(path: Path, data: bytes) -> dict[str, Any]:
    """Sends raw bytes and an end, and reads the answer."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        received = b"".join([chunk async for chunk in stream])
    answer: dict[str, Any] = json.loads(received)
    return answer


async def test_a_request_is_answered_whatever_characters_it_has(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        message = {"op": "echo", "path": "zoë/\udcff\n"}
        assert await ask(path, message) == {"heard": message}


async def test_the_socket_is_only_ours_and_goes_with_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == ["s"]
    assert os.listdir(tmp_path) == []
    with pytest.raises(DaemonGone):
        await ask(path, {"op": "echo"})


async def test_an_error_of_the_daemon_comes_with_its_words_and_exit_code(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        with pytest.raises(Refused, match="the mount point is busy") as caught:
            await ask(path, {"op": "refuse"})
        assert caught.value.exit_code is ExitCode.MOUNT_POINT


async def test_a_defect_in_a_handler_is_logged_and_the_server_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected_log: ExpectedLog
) -> None:
    expected_log("control request 'fail' failed")
    async with serving(tmp_path / "s") as path:
        with pytest.raises(Refused, match="its log says why"):
            await ask(path, {"op": "fail"})
        assert "a defect" in caplog.text
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"{}\n",
        b'{"op": 7}\n',
        b'{"op": "what"}\n',
        b"[" * 5000 + b"\n",
        b'{"op": "echo"',
        b"x" * (MAX_REQUEST_BYTES + 10) + b"\n",
    ],
)
async def test_nothing_malformed_kills_the_server(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path / "s") as path:
        try:
            answer = await say(path, data)
        except trio.BrokenResourceError:
            pass  # it hung up on a request that was too long to be read to its end
        else:
            assert answer["ok"] is False
            assert answer["exit_code"] == 1
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


async def test_a_client_that_leaves_without_asking_or_listening_harms_nobody(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "s") as path:
        for data in (b"", b'{"op": "echo"}\n'):
            stream = await trio.open_unix_socket(path)
            await stream.send_all(data)
            await stream.aclose()
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


async def test_a_client_that_never_asks_is_told_so_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(tmp_path / "s") as path:
        async with await trio.open_unix_socket(path) as stream:
            received = b"".join([chunk async for chunk in stream])
        assert b"no request came in time" in received


async def test_a_handler_that_never_ends_is_cut_off_later_than_the_client_asked(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(tmp_path / "s", handler_timeout_s=5) as path:
        start_s = trio.current_time()
        answer = await say(path, b'{"op": "never", "timeout_s": 20}\n')
        assert "never did not end within 25 s" in answer["error"]
        assert trio.current_time() - start_s == pytest.approx(25, abs=1)


async def test_more_clients_than_fit_are_closed_unheard(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        streams = [await trio.open_unix_socket(path) for _ in range(MAX_CLIENTS)]
        for stream in streams:
            await stream.send_all(b'{"op": "never"')  # taken in, and not yet answered
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with await trio.open_unix_socket(path) as one_more:
            assert await one_more.receive_some() == b""
        for stream in streams:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    async with serving(deep / "socket") as path:
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


async def test_a_second_daemon_does_not_take_the_socket_of_a_live_one(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        with pytest.raises(StartError, match="another daemon answers"):
            await ControlServer(path, HANDLERS).serve()
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter, unlike tmp_path, whose parents are closed."""
    directory = Path(tempfile.mkdtemp(prefix="mountd-test-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    directory.rmdir()


AS_NOBODY = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
try:
    sock.sendall(b'{"op": "echo"}\\n')
    heard = sock.recv(100)
except (BrokenPipeError, ConnectionResetError):
    heard = b""
print("connected", len(heard))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_not_heard_even_where_the_socket_is_open_to_all(
    open_directory: Path, expected_log: ExpectedLog
) -> None:
    expected_log("of user 65534 was refused")
    command = ["/usr/bin/python3", "-c", AS_NOBODY, str(open_directory / "s")]
    async with serving(open_directory / "s") as path:
        path.chmod(0o666)
        result = await trio.run_process(command, user=65534, capture_stdout=True)
        assert result.stdout == b"connected 0\n"
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}


@pytest.fixture
def own_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))
    return ensure_runtime_dir()


@pytest.fixture
def listen(own_runtime_dir: Path) -> Iterator[Callable[[str], socket.socket]]:
    sockets: list[socket.socket] = []

    def listen_for(mountpoint: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sockets.append(sock)
        directory = os.open(own_runtime_dir, os.O_PATH)
        sock.bind(f"/proc/self/fd/{directory}/{socket_name(mountpoint)}")
        os.close(directory)
        sock.listen()
        return sock

    yield listen_for
    for sock in sockets:
        sock.close()


def test_the_runtime_dir_is_closed_to_others(own_runtime_dir: Path) -> None:
    assert stat.S_IMODE(own_runtime_dir.stat().st_mode) == 0o700
    assert runtime_dir() == own_runtime_dir
    own_runtime_dir.chmod(0o755)
    with pytest.raises(StartError, match="only this user may enter"):
        ensure_runtime_dir()


def test_a_runtime_dir_that_somebody_else_put_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "link"))
    with pytest.raises(StartError, match="only this user may enter"):
        ensure_runtime_dir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "theirs", 65534, 65534)
        monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "theirs"))
        with pytest.raises(StartError, match="only this user may enter"):
            ensure_runtime_dir()
        assert tmp_path / "theirs" not in searched_dirs(0)


def test_a_dead_daemons_socket_is_recognised_and_removed(
    own_runtime_dir: Path, listen: Callable[[str], socket.socket]
) -> None:
    listen("/live")
    listen("/dead").close()
    assert len(list(own_runtime_dir.iterdir())) == 2
    # Root sees those of other users, too, and other tests run some.
    found_here = [one.socket_path for one in find_daemons()]
    found_here = [path for path in found_here if path.parent == own_runtime_dir]
    assert found_here == [socket_path("/live")]
    assert os.listdir(own_runtime_dir) == [socket_name("/live")]
    assert find_daemon("/dead") is None
    found = find_daemon("/live")
    assert found is not None
    assert found.pid == os.getpid()


def test_a_daemon_that_is_stuck_is_alive_and_named(listen: Callable[[str], socket.socket]) -> None:
    listen("/stuck")
    path = socket_path("/stuck")
    assert is_alive(path)
    with pytest.raises(NotAnswering, match=f"pid {os.getpid()}"):
        request(path, {"op": "status"}, timeout_s=0.1)


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[]\n", b'{"ok": true, "answer": 3}\n'])
async def test_an_answer_that_makes_no_sense_is_told_apart(
    listen: Callable[[str], socket.socket], answer: bytes
) -> None:
    sock = listen("/odd")

    def answer_once() -> None:
        connection, _ = sock.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, answer_once)
        with pytest.raises(NotAnswering):
            await ask(socket_path("/odd"), {"op": "status"})


async def test_a_starting_daemon_takes_over_the_socket_of_a_killed_one(tmp_path: Path) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    )
    await trio.to_thread.run_sync(
        partial(subprocess.run, [sys.executable, "-c", script, "s"], cwd=tmp_path, check=True)
    )
    assert (tmp_path / "s").exists()
    async with serving(tmp_path / "s") as path:
        assert await ask(path, {"op": "echo"}) == {"heard": {"op": "echo"}}
