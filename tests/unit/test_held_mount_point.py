"""Two daemons on one path: the second is refused, and told what holds it and what to do."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from mountd.control.server import ControlServer, SocketTaken
from mountd.errors import ExitCode
from mountd.mount_point import held_by_another
from tests.fakes.scripted_daemon import scripted_daemon


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("starting", "is just being mounted by pid {} (s3://lab); wait for that mount"),
        ("stopping", "was unmounted, but pid {} (s3://lab) still sends what was written there;"),
        ("ready", "is held by pid {} (s3://lab), perhaps in another container; unmount it there"),
    ],
)
def test_who_holds_a_path_is_told_with_what_to_do(tmp_path: Path, state: str, words: str) -> None:
    status = {"source": "s3://lab", "state": state}
    with scripted_daemon(tmp_path / "m", status=[status]):
        error = held_by_another(tmp_path / "m")
    assert str(error).startswith(f"mount point {tmp_path}/m {words.format(os.getpid())}")
    assert error.exit_code == ExitCode.MOUNT_POINT


def test_who_has_ended_meanwhile_is_no_reason_to_wait(tmp_path: Path) -> None:
    assert str(held_by_another(tmp_path / "m")).endswith("has ended; try again")


@pytest.mark.fuse
def test_the_second_of_two_mounts_on_one_path_tells_what_holds_it(tmp_path: Path) -> None:
    for name in ("data", "m"):
        (tmp_path / name).mkdir()
    status = {"source": "s3://lab", "state": "starting"}
    command = [sys.executable, "-m", "mountd", "mount", f"file://{tmp_path}/data"]
    with scripted_daemon(tmp_path / "m", status=[status]):
        done = subprocess.run(
            [*command, tmp_path / "m", "-o", f"cache_dir={tmp_path}/cache"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    held = f"mount point {tmp_path}/m is just being mounted by pid {os.getpid()} (s3://lab); "
    assert held in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (ExitCode.MOUNT_POINT, 1)


def test_of_daemons_that_start_at_once_one_gets_the_socket(tmp_path: Path) -> None:
    for number in range(20):
        assert sorted(_start_at_once(tmp_path / str(number), daemons=4)) == [False] * 3 + [True]
    assert sorted(os.listdir(tmp_path)) == []


async def test_where_there_are_no_hard_links_the_second_is_refused_too_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(tmp_path / "s", {}).serve)
        with pytest.raises(SocketTaken):
            await ControlServer(tmp_path / "s", {}).serve()
        assert os.listdir(tmp_path) == ["s"]
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == []


def _start_at_once(path: Path, daemons: int) -> list[bool]:
    """For each whether it got the socket; in the end none has it."""
    got: list[bool] = []
    together, all_tried = threading.Barrier(daemons), threading.Barrier(daemons)

    async def serve() -> None:
        server = ControlServer(path, {})
        together.wait(20)
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(server.serve)
                got.append(True)
            except SocketTaken:
                got.append(False)
            await trio.to_thread.run_sync(all_tried.wait, 20)
            nursery.cancel_scope.cancel()

    threads = [threading.Thread(target=trio.run, args=(serve,)) for _ in range(daemons)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return got
