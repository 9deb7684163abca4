"""What doctor finds, and what it says to do about it."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mountd.cli.doctor_machine import check_cache_dir, check_fusectl, check_read_ahead
from mountd.cli.doctor_mounts import check_mount, read_levers
from mountd.cli.doctor_source import (
    check_clock,
    check_credentials,
    check_source,
    check_way,
    endpoint_of,
)
from mountd.config import Settings
from mountd.config.file import ConfigFile
from mountd.config.source import parse_source
from mountd.errors import ExitCode
from mountd.mount_table import Mount, parse_mountinfo
from tests.servers.s3.launch import S3Server

NOW = datetime(2026, 1, 31, 10, 0, tzinfo=UTC)
MOUNT = Mount("0:50", "/storage", "fuse.mountd", "s3://lab", "rw", 0)


class Clock(BaseHTTPRequestHandler):
    """Answers 403 and a Date that is `skew` off."""

    skew = timedelta()

    def do_HEAD(self) -> None:
        self.send_response_only(403)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.skew, usegmt=True))
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Clock) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def settings(**credentials: str) -> Settings:
    return Settings(Path("/c"), credentials=MappingProxyType(credentials))


def mountinfo(options: str, fs_type: str = "sysfs", path: str = "/sys") -> list[Mount]:
    return parse_mountinfo(f"22 27 0:21 / {path} {options} - {fs_type} x rw\n".encode())


def test_a_read_only_sysfs_is_found_with_the_fix() -> None:
    found = check_read_ahead(mountinfo("ro,nosuid"))
    assert (found.state, "read-only" in found.found) == ("warning", True)
    assert "/sys" in found.fix
    assert check_read_ahead([]).state == "warning"
    if os.geteuid() == 0:
        assert check_read_ahead(mountinfo("rw,nosuid")).state == "ok"


def test_fusectl_missing_or_read_only_is_found_with_the_fix() -> None:
    place = "/sys/fs/fuse/connections"
    assert "mount -t fusectl" in check_fusectl([], is_root=False).fix
    assert check_fusectl([], is_root=True).state == "ok"
    assert check_fusectl(mountinfo("ro", "fusectl", place), is_root=True).state == "warning"
    assert check_fusectl(mountinfo("rw", "fusectl", place), is_root=False).state == "ok"


def test_the_caches_disk_is_described_and_a_bad_one_is_a_problem(tmp_path: Path) -> None:
    (found,) = check_cache_dir(tmp_path / "not/yet/there")
    assert found.state in ("ok", "warning")
    assert "free of" in found.found
    (found,) = check_cache_dir(Path("/dev/shm/cache"))
    assert (found.state, "does not survive" in found.found) == ("warning", True)
    (tmp_path / "file").write_text("")
    (found,) = check_cache_dir(tmp_path / "file")
    assert (found.state, found.found) == ("problem", f"{tmp_path}/file is no directory")


def test_levers_are_read_from_the_kernel_as_far_as_it_shows_them(tmp_path: Path) -> None:
    (tmp_path / "bdi/0:50").mkdir(parents=True)
    (tmp_path / "bdi/0:50/read_ahead_kb").write_text("1024\n")
    (tmp_path / "connections/50").mkdir(parents=True)
    (tmp_path / "connections/50/max_background").write_text("64\n")
    levers = read_levers(MOUNT, tmp_path / "bdi", tmp_path / "connections")
    assert levers == {"read_ahead_kb": 1024, "max_background": 64}


def test_a_healthy_mount_reports_its_levers() -> None:
    kernel = {"read_ahead_kb": 1024, "max_background": 64, "notes": []}
    status = {"mountpoint": "/s", "state": "ready", "remote": {"state": "ok"}, "kernel": kernel}
    first, levers = check_mount(status, None)
    assert (first.state, first.found) == ("ok", "ready, remote ok")
    assert (levers.state, levers.found) == ("ok", "read_ahead_kb 1024, max_background 64")


def test_a_slow_lever_and_the_daemons_notes_are_warnings() -> None:
    kernel = {"read_ahead_kb": 128, "notes": ["sysfs is read-only"]}
    status = {"mountpoint": "/s", "state": "ready", "remote": {"state": "ok"}, "kernel": kernel}
    found = check_mount(status, None)
    assert [one.state for one in found] == ["ok", "ok", "warning", "warning"]
    assert "read_ahead_kb" in found[2].fix
    assert found[3].found == "sysfs is read-only"


def test_what_keeps_writes_from_the_disk_or_the_remote_is_a_problem_with_a_fix() -> None:
    writes = {"state": "refused", "since": None, "reason": "PUT f: 403"}
    status = {
        **{"mountpoint": "/s", "state": "ready", "remote": {"state": "ok", "writes": writes}},
        "cache": {"folder": "/c/lab", "disk_error": "No space left on device"},
    }
    _, disk, refused = check_mount(status, None)
    assert (disk.state, disk.found) == ("problem", "its disk: No space left on device")
    assert "make room on the disk of /c/lab" in disk.fix
    assert refused.state == "problem"
    assert refused.found == "writes are refused by the remote: PUT f: 403"
    assert "mountd queue /s --retry" in refused.fix


def test_a_mount_of_somebody_else_is_no_problem_of_ours() -> None:
    status = {"mountpoint": "/s", "state": "out of sight", "error": "ask user 7"}
    (found,) = check_mount(status, None)
    assert (found.state, found.fix) == ("ok", "")


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        ({"state": "dead", "error": "no daemon"}, "problem", "mountd umount /s"),
        ({"state": "not answering", "error": "pid 7"}, "problem", "--abandon"),
        (
            {"state": "ready", "source": "s3://b", "remote": {"state": "denied"}},
            "warning",
            "mountd doctor s3://b",
        ),
    ],
)
def test_a_sick_mount_comes_with_what_to_do(status: dict[str, Any], state: str, words: str) -> None:
    found = check_mount({"mountpoint": "/s", **status}, None)[0]
    assert found.state == state
    assert words in found.fix


@pytest.mark.parametrize(
    ("off_s", "state"),
    [(0, "ok"), (59, "ok"), (-61, "warning"), (899, "warning"), (-900, "problem")],
)
def test_a_clock_that_is_off_is_told_in_seconds(off_s: int, state: str) -> None:
    date = format_datetime(NOW + timedelta(seconds=off_s), usegmt=True)
    (found,) = check_clock(date, NOW)
    assert found.state == state
    assert state == "ok" or f"{abs(off_s)} s off" in found.found


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_an_answer_without_a_date_says_nothing_of_the_clock(date: str | None) -> None:
    assert check_clock(date, NOW) == []


def test_the_way_to_a_host_is_measured_and_its_clock_compared(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, clock = check_way(server)
    assert (connection.state, clock.state) == ("ok", "ok")
    assert "first byte in" in connection.found
    monkeypatch.setattr(Clock, "skew", timedelta(hours=1))
    assert check_way(server)[1].state == "problem"


def test_a_closed_port_and_an_unknown_host_are_told_apart(server: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        (found,) = check_way(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (found.check, found.state) == ("connection", "problem")
    assert "refused" in found.found
    (found,) = check_way("http://no-such-host.invalid")
    assert (found.check, found.state) == ("DNS", "problem")
    (found,) = check_way(server.replace("http:", "https:"))
    assert (found.check, found.state) == ("TLS", "problem")


def test_the_host_that_will_be_asked_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert endpoint_of(parse_source("s3://b"), settings()) == "https://s3.amazonaws.com"
    config.write_text("[default]\nendpoint_url = https://s3.lab.example\n")
    assert endpoint_of(parse_source("s3://b"), settings()) == "https://s3.lab.example"
    assert endpoint_of(parse_source("webdav://h:8443/x"), settings()) == "https://h:8443"
    assert endpoint_of(parse_source("webdav+http://h/x"), settings()) == "http://h"
    azure = settings(account_name="acc")
    assert endpoint_of(parse_source("az://box"), azure) == "https://acc.blob.core.windows.net"
    assert endpoint_of(parse_source("sftp://h/x"), settings()) == ""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert endpoint_of(parse_source("s3://b"), settings()) == "http://127.0.0.1:9000"


def test_credentials_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    given = settings(secret_access_key="s3cret")
    found = check_credentials(parse_source("s3://b"), given)
    assert found.state == "ok"
    assert "secret_access_key" in found.found
    assert "$AWS_ACCESS_KEY_ID" in found.found
    assert "s3cret" not in found.found
    assert "AKIDEXAMPLE" not in found.found
    found = check_credentials(parse_source("webdav://h"), settings())
    assert (found.state, "MOUNTD_USER" in found.fix) == ("warning", True)


def run_doctor(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MOUNTD_")},
        "MOUNTD_RUNTIME_DIR": str(tmp_path / "run"),
        "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-m", "mountd", "doctor", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_doctor_gives_every_finding_as_json(tmp_path: Path) -> None:
    done = run_doctor(tmp_path, "--json")
    findings = json.loads(done.stdout)
    assert {tuple(one) for one in findings} == {("check", "state", "found", "fix")}
    checks = {one["check"] for one in findings}
    assert checks >= {"/dev/fuse", "fusermount3", "read_ahead_kb", "open files", "cache_dir"}
    assert all(one["fix"] for one in findings if one["state"] != "ok")


def test_the_cache_that_an_option_names_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    done = run_doctor(tmp_path, "--json", "-o", f"cache_dir={tmp_path}/elsewhere")
    (found,) = [one["found"] for one in json.loads(done.stdout) if one["check"] == "cache_dir"]
    assert found.startswith(f"{tmp_path}/elsewhere: ")


def test_a_config_that_cannot_be_read_is_a_finding_and_no_end(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[defaults\n")
    done = run_doctor(tmp_path, "--config", str(tmp_path / "c.toml"))
    assert done.returncode == 1
    assert "is no TOML" in done.stdout
    assert "cache_dir" in done.stdout


def test_a_wrong_source_is_a_finding_with_exit_code_2(tmp_path: Path) -> None:
    done = run_doctor(tmp_path, "s4://b")
    assert done.returncode == 2
    assert "did you mean s3?" in done.stdout


@pytest.mark.server
def test_a_bucket_that_is_not_there_is_called_missing(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.put("b", "one", b"1")
    found, code = check_source("s3://b", ConfigFile(), [])
    assert (code, found[-1].state) == (ExitCode.OK, "ok")
    assert found[-1].found.startswith("s3://b: 1 entry in ")
    found, code = check_source("s3://nope", ConfigFile(), [])
    assert (code, found[-1].state) == (ExitCode.UNREACHABLE, "problem")
    assert found[-1].found.startswith("s3://nope: missing: ")
