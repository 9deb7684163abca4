"""Passwords of a Nextcloud, wrong and revoked, and the sign-ins that `mountd login` stores."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mountd.cli.login import sign_in
from mountd.config.logins import save
from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

FILES = 30


def mountd(server: NextcloudServer, folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of a command that has a wrong password, and all that it said."""
    found = subprocess.run(
        [sys.executable, "-m", "mountd", *arguments],
        env=os.environ | {"MOUNTD_PASSWORD": "wrong", "MOUNTD_RUNTIME_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=40,
        text=True,
    )
    return found.returncode, found.stdout


def test_a_wrong_password_at_mount_fails_once_with_a_line(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    options = f"endpoint={nextcloud_server.url},cache_dir={tmp_path / 'cache'}"
    (tmp_path / "mnt").mkdir()
    source = f"nextcloud://{nextcloud_server.user}@cloud/"
    code, said = mountd(
        nextcloud_server, tmp_path, "mount", source, str(tmp_path / "mnt"), "-o", options
    )
    assert code == 3
    assert said.count("\n") == 1
    assert "refuses user and password or token" in said
    assert nextcloud_server.auth_failures() == 1


def test_doctor_tries_a_wrong_password_once(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    source = f"nextcloud://{nextcloud_server.user}@cloud/"
    options = f"endpoint={nextcloud_server.url}"
    code, said = mountd(nextcloud_server, tmp_path, "doctor", source, "-o", options)
    assert code == 3
    assert "denied" in said
    assert nextcloud_server.auth_failures() == 1


def test_a_bearer_token_mounts(nextcloud_server: NextcloudServer, tmp_path: Path) -> None:
    nextcloud_server.allow_bearer("t0ken")
    nextcloud_server.put("f", b"1")
    with account(nextcloud_server, tmp_path, {"MOUNTD_TOKEN": "t0ken"}) as at:
        assert (at.path / "f").read_bytes() == b"1"


def test_a_stored_sign_in_mounts_without_user_or_password(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    server, granted = nextcloud_server, list[str]()
    server.put("f", b"1")
    login = sign_in(nextcloud_server.url, lambda url: granted.append(server.grant_logins()), 9.0)
    assert [login.password] == granted
    save(login, tmp_path / "mountd/logins")
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    with mounted(
        "nextcloud://cloud/", tmp_path, environment=home, endpoint=nextcloud_server.url
    ) as at:
        assert (at.path / "f").read_bytes() == b"1"
        assert login.password not in at.log.read_text()
        command_line = Path(f"/proc/{at.process.pid}/cmdline").read_bytes()
        assert login.password.encode() not in command_line


def test_a_password_that_is_revoked_is_not_sent_again_and_the_queue_waits_for_a_new_one(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    old = {"MOUNTD_PASSWORD": nextcloud_server.grant_logins()}
    with account(nextcloud_server, tmp_path, old) as at:
        (at.path / "first").write_bytes(b"1")
        at.cli("flush", str(at.path), "--timeout", "25")
        nextcloud_server.faults({"op": "Put", "hold": True})
        for number in range(FILES):
            (at.path / f"f{number}").write_bytes(b"%d" % number)
        nextcloud_server.revoke_logins()
        nextcloud_server.clear_faults()
        nextcloud_server.release()
        wait_until_denied(at)
        failures = nextcloud_server.auth_failures()
        assert 1 <= failures <= 8  # what was under way together
        wait_until_writers_are_told(at.path / "first")
        nextcloud_server.put("foreign", b"2")
        at.cli("refresh", str(at.path))
        assert (at.path / "first").read_bytes() == b"1"  # what is cached goes on being served
        assert len(list(at.path.iterdir())) == FILES + 1
        status = at.status()
        assert "401" in status["remote"]["last_error"]
        assert status["queue"]["failed"] == 0
        left = FILES + 1 - len([each for each in nextcloud_server.tree() if each != "foreign"])
        assert left > FILES // 2
        assert status["queue"]["pending"] + status["queue"]["uploading"] == left
        # Half a minute after the first one more is sent, which a busy machine may reach here.
        assert nextcloud_server.auth_failures() - failures <= 1
        at.kill()
    new = {"MOUNTD_PASSWORD": nextcloud_server.grant_logins()}
    with account(nextcloud_server, tmp_path, new) as at:
        at.cli("flush", str(at.path), "--timeout", "25")
        assert at.status()["remote"]["state"] == "ok"
    names = {"first", "foreign", *(f"f{number}" for number in range(FILES))}
    assert set(nextcloud_server.tree()) == names
    assert nextcloud_server.auth_failures() - failures <= 1


def account(
    server: NextcloudServer, folder: Path, environment: Mapping[str, str]
) -> AbstractContextManager[Mounted]:
    return mounted(
        f"nextcloud://{server.user}@cloud/",
        folder,
        environment=environment,
        endpoint=server.url,
        write_back_s=0,
    )


def wait_until_denied(at: Mounted) -> None:
    deadline_s = time.monotonic() + 20
    while at.status()["remote"]["state"] != "denied":
        assert time.monotonic() < deadline_s, at.status()


def wait_until_writers_are_told(path: Path) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            path.open("r+b").close()
        except PermissionError:
            return
    raise AssertionError("the queue did not hear of the refusal")
