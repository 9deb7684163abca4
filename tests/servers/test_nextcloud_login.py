"""`mountd login` and wrong passwords, at the Nextcloud-shaped server."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountd.cli.login import run, server_named, sign_in
from mountd.config.logins import find
from mountd.errors import CredentialsError, Unsupported, UsageError
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.tls_front import certificates

pytestmark = pytest.mark.server


@contextmanager
def granting(server: NextcloudServer) -> Iterator[None]:
    """Somebody grants the next sign-in once it is waited for."""

    def grant() -> None:
        server.wait_for_requests(2, prefix="poll")
        server.grant_logins()

    thread = threading.Thread(target=grant)
    thread.start()
    yield
    thread.join()


def test_a_granted_sign_in_is_stored_and_the_password_is_never_shown(
    nextcloud_server: NextcloudServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    url = nextcloud_server.url
    with granting(nextcloud_server):
        assert run(["nextcloud", "cloud", "-o", f"endpoint={url}"]) == 0
    shown = capfd.readouterr()
    login = find(url, "", tmp_path / "mountd/logins")
    assert login is not None
    assert login.user == nextcloud_server.user
    assert login.password not in shown.out + shown.err
    assert re.search(rf"{url}/index.php/login/v2/flow/\w+", shown.out)
    assert f"signed in to {url} as tester" in shown.out
    assert f"mountd mount nextcloud://tester@{nextcloud_server.authority}/ -o endpoint" in shown.out


def test_the_line_to_mount_it_with_names_the_servers_own_certificate(
    nextcloud_server: NextcloudServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    ca_file, _ = certificates(tmp_path)
    options = ["-o", f"endpoint={nextcloud_server.url},ca_file={ca_file}", "--no-browser"]
    with granting(nextcloud_server):
        assert run(["nextcloud", "cloud", *options]) == 0
    line = f"endpoint={nextcloud_server.url} -o ca_file={ca_file} /storage"
    assert line in capfd.readouterr().out


def test_json_is_one_object_on_stdout_and_the_page_goes_to_stderr(
    nextcloud_server: NextcloudServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with granting(nextcloud_server):
        options = ["-o", f"endpoint={nextcloud_server.url}", "--json", "--no-browser"]
        assert run(["nextcloud", "cloud", *options]) == 0
    shown = capfd.readouterr()
    told = json.loads(shown.out)
    assert told["user"] == "tester"
    assert told["server"] == nextcloud_server.url
    assert Path(told["file"]).is_file()
    assert "/login/v2/flow/" in shown.err


def test_a_sign_in_that_nobody_grants_ends(nextcloud_server: NextcloudServer) -> None:
    now_s = [0.0]

    def sleep(span_s: float) -> None:
        now_s[0] += 300.0 * span_s

    with pytest.raises(CredentialsError, match="nobody granted"):
        sign_in(nextcloud_server.url, lambda url: None, 1200.0, sleep=sleep, clock=lambda: now_s[0])
    assert len(nextcloud_server.log(prefix="poll")) == 5
    assert nextcloud_server.auth_failures() == 0


def test_a_server_in_trouble_is_polled_on(nextcloud_server: NextcloudServer) -> None:
    nextcloud_server.faults({"prefix": "poll", "times": 2, "status": 503})
    tries = []

    def sleep(span_s: float) -> None:
        tries.append(span_s)
        if len(tries) == 3:
            nextcloud_server.grant_logins()

    login = sign_in(nextcloud_server.url, lambda url: None, 60.0, sleep=sleep)
    assert login.user == "tester"
    assert tries == [1.0, 1.0, 1.0]


def test_a_host_without_nextcloud_is_said(nextcloud_server: NextcloudServer) -> None:
    with pytest.raises(Unsupported, match="there is no Nextcloud"):
        sign_in(f"{nextcloud_server.url}/elsewhere", lambda url: None, 1.0)


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("cloud.example.org", "https://cloud.example.org"),
        ("Cloud.example.org:8443", "https://cloud.example.org:8443"),
        ("nextcloud://cloud.example.org", "https://cloud.example.org"),
        ("https://cloud.example.org/folder/", "https://cloud.example.org/folder"),
    ],
)
def test_a_host_may_be_written_in_several_ways(host: str, server: str) -> None:
    assert server_named(host, None) == server


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("http://cloud.example.org", "-o endpoint=http://cloud.example.org"),
        ("cloud.example.org/folder", "write cloud.example.org or https://HOST/FOLDER"),
        ("https://ann:pw@cloud.example.org", "password"),
        ("s3://bucket", "write cloud.example.org"),
    ],
)
def test_what_is_no_host_or_sends_passwords_in_clear_is_refused(host: str, line: str) -> None:
    with pytest.raises(UsageError, match=re.escape(line)) as refused:
        server_named(host, None)
    assert "pw" not in str(refused.value)


def test_an_interrupt_ends_the_wait_without_a_traceback(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "mountd", "login", "nextcloud", "cloud", "--no-browser"]
    process = subprocess.Popen(
        [*command, "-o", f"endpoint={nextcloud_server.url}"],
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    nextcloud_server.wait_for_requests(1, prefix="poll")
    process.send_signal(2)
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []
