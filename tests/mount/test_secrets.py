"""Secrets, however they were given, are in nothing that a mount says while things go wrong; and
what its log says in JSON can be followed from request to request."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from mountd.config.rclone_obscure import reveal
from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

WITHIN_S = 30
RCLONE = Path(sys.executable).parent / "rclone"
KEY, TOKEN = 'S3cr+t/Key%41=of"s3', "t0ken+of/a-session=="
PASSWORD = 'pa ss/w+rd"é%20&of-dav'


@dataclass
class Case:
    """One way to give a secret. `deny` makes the server refuse it from then on."""

    server: S3Server | NextcloudServer
    source: str
    environment: Mapping[str, str]
    deny: Callable[[], None]
    secrets: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)


def s3_case(server: S3Server, folder: Path) -> Case:
    """A key from a file, and a token from the environment."""
    server.set_identities({"access_key": "AKID", "secret_key": KEY, "session_token": TOKEN})
    server.put("lab", "large", bytes(3 << 20))
    environment = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1"}
    environment |= {"MOUNTD_SESSION_TOKEN": TOKEN}
    (folder / "key").write_text(f"{KEY}\n")
    options = {"access_key_id": "AKID", "secret_access_key_file": folder / "key"}
    other = {"access_key": "AKID", "secret_key": "other"}
    return Case(
        *(server, "s3://lab", environment, lambda: server.set_identities(other)),
        *((KEY, TOKEN), options),
    )


def dav_server(server: NextcloudServer) -> Callable[[], None]:
    server.add_account("ann", PASSWORD)
    server.put("large", bytes(3 << 20), user="ann")
    return lambda: server.add_account("ann", "other")


def webdav_case(server: NextcloudServer, folder: Path) -> Case:
    """A password from a file, a user in the URL."""
    deny = dav_server(server)
    (folder / "password").write_text(PASSWORD)
    source = f"webdav+http://ann@{server.authority}/remote.php/dav/files/ann/"
    environment = {"MOUNTD_PASSWORD_FILE": str(folder / "password")}
    return Case(server, source, environment, deny, (PASSWORD,))


def nextcloud_case(server: NextcloudServer, folder: Path) -> Case:
    """An obscured password in rclone's variables."""
    deny = dav_server(server)
    obscured = subprocess.run(
        [RCLONE, "obscure", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert reveal(obscured) == PASSWORD
    url = f"{server.url}/remote.php/dav/files/ann"
    given = {"TYPE": "webdav", "VENDOR": "nextcloud", "URL": url, "USER": "ann", "PASS": obscured}
    environment = {f"RCLONE_CONFIG_R_{name}": value for name, value in given.items()}
    environment["RCLONE_CONFIG"] = "/dev/null"
    return Case(server, "rclone:r:", environment, deny, (PASSWORD, obscured))


@pytest.fixture(params=["s3", "webdav", "nextcloud"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "s3":
        return s3_case(request.getfixturevalue("s3_server"), tmp_path)
    make = webdav_case if request.param == "webdav" else nextcloud_case
    return make(request.getfixturevalue("nextcloud_server"), tmp_path)


def until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def state(mount: Mounted) -> str:
    """By the path: without a process for each look."""
    found = json.loads((mount.path / ".mountd/status.json").read_bytes())
    return str(found["remote"]["state"])


def is_denied(mount: Mounted) -> bool:
    with suppress(OSError):
        os.listdir(mount.path)  # asks each time, with this TTL
    return state(mount) == "denied"


def read_all(mount: Mounted) -> None:
    with suppress(OSError), (mount.path / "large").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read()


def go_wrong(case: Case, mount: Mounted) -> None:
    """Failed, cut and refused requests of all kinds."""
    assert (mount.path / "large").stat().st_size == 3 << 20
    key = "key" if isinstance(case.server, S3Server) else "path"
    case.server.faults({"method": "GET", key: "large", "status": 500, "times": 2})
    read_all(mount)
    case.server.faults({"method": "PUT", key: "reset", "reset": True, "times": 1})
    (mount.path / "reset").write_bytes(b"1")
    case.server.faults({"method": "PUT", key: "refused", "status": 403})
    (mount.path / "refused").write_bytes(b"1")
    until(lambda: "was refused by the remote" in mount.log.read_text())
    with suppress(OSError):
        (mount.path / "large").rename(mount.path / "larger")
    case.server.clear_faults()


# Commands in one process: a process for each takes longer than all they do.
COMMANDS = """
import json, sys
from mountd.cli import main
for arguments in json.loads(sys.argv[1]):
    print("=", arguments, main(arguments), flush=True)
    print("=", arguments[:1], file=sys.stderr, flush=True)
"""


def run(mount: Mounted, *commands: list[str]) -> str:
    """All that these commands say."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env=mount.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout + done.stderr


def doctor(case: Case) -> list[str]:
    options = ",".join(f"{key}={value}" for key, value in case.options.items())
    return ["doctor", case.source, "--json", *(["-o", options] if options else [])]


def all_that_is_said(case: Case, mount: Mounted) -> dict[str, str]:
    at = str(mount.path)
    status = json.loads((mount.path / ".mountd/status.json").read_bytes())
    with urllib.request.urlopen(f"http://{status['metrics']}/metrics", timeout=20) as page:
        metrics = page.read().decode()
    looks = [["status", at], ["status", at, "--json"], ["queue", at], ["queue", at, "--json"]]
    return {
        "commands": run(mount, *looks, doctor(case)),
        "status": json.dumps(status),
        "metrics": metrics,
        "ps": Path(f"/proc/{mount.process.pid}/cmdline").read_bytes().decode(),
    }


def spelt(secret: str) -> list[str]:
    """A secret as it might stand somewhere."""
    found = [secret, quote(secret), quote(secret, safe=""), quote_plus(secret)]
    found += [json.dumps(secret)[1:-1], repr(secret)[1:-1]]
    return [
        *found,
        *(base64.b64encode(text.encode()).decode() for text in (secret, "ann:" + secret)),
    ]


def test_no_secret_is_in_what_a_mount_says_and_its_log_can_be_followed(
    case: Case, tmp_path: Path
) -> None:
    options = {"log_format": "json", "log_level": "debug", "metrics": "127.0.0.1:0"}
    options |= {
        "request_timeout_s": "5",
        "write_back_s": "0",
        "stop_timeout_s": "1",
        "metadata_ttl_s": "0",
    }
    # Else the queues of this machine would be looked at, too.
    environment = {**case.environment, "MOUNTD_CACHE_DIR": str(tmp_path / "cache")}
    said: dict[str, str] = {}
    with mounted(
        case.source, tmp_path, environment=environment, **options, **case.options
    ) as mount:
        assert os.listdir(mount.path) == ["large"]
        go_wrong(case, mount)
        case.deny()
        until(lambda: is_denied(mount))
        said |= all_that_is_said(case, mount)
        case.server.refuse_connections()
        try:
            said["doctor without the remote"] = run(mount, doctor(case))
        finally:
            case.server.accept_connections()
    said["log"] = mount.log.read_text()
    for where, text in said.items():
        assert text, where
        for secret in case.secrets:
            for form in spelt(secret):
                assert form not in text, where
    _check_log([json.loads(line) for line in said["log"].splitlines()])


def _check_log(lines: list[dict[str, Any]]) -> None:
    assert len(lines) > 5
    for line in lines:
        assert line.keys() >= {"time", "level", "logger", "message"}, line
    requests = [line for line in lines if "request" in line]
    reads = [line for line in requests if line.get("operation") == "read"]
    # Both attempts that failed, and the one that didn't, of one request of a reader.
    failed = [line for line in reads if "failed" in line["message"]]
    assert failed
    same = [line for line in reads if line["request"] == failed[0]["request"]]
    assert len(same) >= 2
    assert {line["path"] for line in same} == {"large"}
    # What is said of a change, by whatever part, carries the id of its request.
    refused = [line for line in lines if "was refused by the remote" in line["message"]]
    assert refused
    (about,) = {(line["path"], line["operation"], line["request"]) for line in refused[:1]}
    assert about[:2] == ("refused", "file")
    puts = [line for line in requests if line["request"] == about[2]]
    assert any(line.get("operation") == "put" for line in puts)


def test_a_password_in_a_source_is_refused_and_not_repeated(tmp_path: Path) -> None:
    sources = (
        f"webdav://ann:{quote(PASSWORD, safe='')}@h/x",
        f"nextcloud://ann:{PASSWORD}@h/x",
        f"s3://AKID:{KEY}@bucket",
    )
    ways = [["mount", "SOURCE", str(tmp_path)], ["doctor", "SOURCE", "--json"]]
    commands = [
        [one.replace("SOURCE", source) for one in way] for source in sources for way in ways
    ]
    script = COMMANDS.replace("arguments, main(arguments)", "main(arguments)")
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        env=os.environ
        | {
            "MOUNTD_RUNTIME_DIR": str(tmp_path / "run"),
            "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count("= 2\n") == len(commands), done
    for secret in (*spelt(PASSWORD), *spelt(KEY)):
        assert secret not in done.stdout + done.stderr
