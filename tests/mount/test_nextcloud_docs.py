"""The commands of docs/nextcloud.md, run as they stand there."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountd.config.file import load_config
from mountd.config.load import CommandLine, plan_mount
from tests.mount.mounting import is_mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

TEXT = (Path(__file__).parents[2] / "docs/nextcloud.md").read_text()


class Newcomer:
    """A user with a home of their own, and `/storage` in it. The host of the document is ours."""

    def __init__(self, server: NextcloudServer, home: Path) -> None:
        self.storage = home / "storage"
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "MOUNTD_RUNTIME_DIR": str(home),
            "MOUNTD_CACHE_DIR": str(home / "cache"),
            "MOUNTD_CACHE_SIZE": "256MiB",
            "MOUNTD_ENDPOINT": server.url,
        }

    def types(self, line: str) -> int:
        """The exit code. Output goes nowhere: a daemon would keep a pipe open."""
        command = re.sub(r"\bmountd ", f"{sys.executable} -m mountd ", line, count=1)
        done = subprocess.run(
            ["bash", "-c", command.replace("/storage", str(self.storage))],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
        return done.returncode


@pytest.fixture
def newcomer(nextcloud_server: NextcloudServer, tmp_path: Path) -> Iterator[Newcomer]:
    found = Newcomer(nextcloud_server, tmp_path)
    yield found
    if is_mounted(found.storage):
        found.types("mountd umount /storage --abandon")
        subprocess.run(["fusermount3", "-uz", str(found.storage)], check=False, timeout=10)


@contextmanager
def granting(server: NextcloudServer) -> Iterator[None]:
    """What happens in the browser."""

    def grant() -> None:
        server.wait_for_requests(1, prefix="poll", timeout_s=30.0)
        server.grant_logins()

    server.clear_log()
    thread = threading.Thread(target=grant)
    thread.start()
    yield
    thread.join()


def block(language: str, number: int = 0) -> str:
    return [match[1] for match in re.finditer(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)][number]


def test_the_five_lines_and_those_after_a_revoked_password_do_what_they_say(
    newcomer: Newcomer, nextcloud_server: NextcloudServer
) -> None:
    set_up, after = block("sh").splitlines(), block("sh", 1).splitlines()
    assert len(set_up) == 5
    with granting(nextcloud_server):
        assert newcomer.types(set_up[0]) == 0
    for line in set_up[1:3]:
        assert newcomer.types(line) == 0
    (newcomer.storage / "f").write_bytes(b"1")
    assert newcomer.types(set_up[3]) == 0
    assert nextcloud_server.read("f") == b"1"
    nextcloud_server.revoke_logins()
    (newcomer.storage / "g").write_bytes(b"2")
    assert newcomer.types(after[0]) == 75
    with granting(nextcloud_server):
        assert newcomer.types(after[1]) == 0
    assert newcomer.types(after[2]) == 0
    for line in set_up[3:]:
        assert newcomer.types(line) == 0
    assert nextcloud_server.read("g") == b"2"
    assert not is_mounted(newcomer.storage)


def test_a_password_file_mounts(nextcloud_server: NextcloudServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{nextcloud_server.grant_logins()}\n")
    nextcloud_server.put("f", b"1")
    with mounted(
        f"nextcloud://{nextcloud_server.user}@cloud/",
        tmp_path,
        endpoint=nextcloud_server.url,
        password_file=file,
    ) as at:
        assert (at.path / "f").read_bytes() == b"1"


def test_the_example_of_a_config_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(block("toml"))
    (tmp_path / "cloud.password").write_text("s3cret\n")
    config = load_config(tmp_path / "config.toml")
    plan = plan_mount("cloud", None, config, CommandLine({}, {}), {})
    assert plan.source.text == "nextcloud://cloud.example.org"
    assert plan.settings.credentials == {"user": "ann", "password": "s3cret"}
    assert config.warnings == ()
