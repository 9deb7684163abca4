"""A mount of a real Nextcloud, and what its admin and its other users do meanwhile. See
`test_real_nextcloud.py`."""

import errno
import hashlib
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.real_nextcloud_day import (
    Day,
    a_day,
    flush,
    needs_occ,
    needs_one,
    needs_other,
    until,
)
from tests.servers.real_nextcloud import RealNextcloud, occ, other_account
from tests.servers.real_nextcloud_web import Browser

pytestmark = needs_one
MIB = 1 << 20


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    with a_day(tmp_path) as found:
        yield found


@pytest.fixture
def other() -> Iterator[RealNextcloud]:
    with other_account() as found:
        yield found


@contextmanager
def quota(server: RealNextcloud, room_bytes: int) -> Iterator[None]:
    """The account has this much room left."""
    limit = f"{server.used_bytes() + room_bytes} B"
    occ("user:setting", server.user, "files", "quota", limit)
    try:
        yield
    finally:
        occ("user:setting", server.user, "files", "quota", "none")


@needs_occ
def test_a_full_account_is_told_by_df_and_before_the_upload(day: Day) -> None:
    day.server.put("kept", bytes(1000))
    with quota(day.server, 4 * MIB):
        at = day.mount()
        until(lambda: room(at) <= 4 * MIB)
        assert room(at) > 3 * MIB
        day.forget_requests()
        with pytest.raises(OSError, match="No space left"), (at.path / "large").open("wb") as file:
            file.write(bytes(8 * MIB))
        with pytest.raises(OSError, match="quota") as raised:
            os.truncate(at.path / "kept", 8 * MIB)
        assert raised.value.errno == errno.EDQUOT
        (at.path / "large").unlink()
        (at.path / "small").write_bytes(b"small")
        with pytest.raises(subprocess.CalledProcessError):
            flush(at)  # syncfs tells of what the kernel could not hand over, once
        flush(at)
        assert day.server.names("") == ["kept", "small"]
        assert day.requests() == {"PUT": 1}


@needs_occ
def test_what_was_written_before_the_account_was_full_waits_until_there_is_room(day: Day) -> None:
    at = day.mount()
    os.listdir(at.path)
    with quota(day.server, 10_000):
        (at.path / "closed").write_bytes(bytes(200_000))
        until(lambda: "507" in queued(at).get("closed", {}).get("reason", ""))
        with pytest.raises(OSError, match="quota") as raised:
            (at.path / "another").write_bytes(b"x")
        assert raised.value.errno == errno.EDQUOT
        assert (at.path / "closed").read_bytes() == bytes(200_000)
    at.cli("queue", str(at.path), "--retry")
    flush(at)
    assert day.server.read("closed") == bytes(200_000)


@needs_occ
def test_maintenance_leaves_what_is_cached_and_the_queue_waits_for_its_end(day: Day) -> None:
    day.server.put("d/cached", b"cached")
    at = day.mount()
    assert (at.path / "d/cached").read_bytes() == b"cached"
    occ("maintenance:mode", "--on")
    try:
        until(lambda: is_away(day.server))
        (at.path / "d/new").write_bytes(b"written meanwhile")
        (at.path / "d/cached").write_bytes(b"replaced meanwhile")
        until(lambda: "503" in queued(at).get("d/new", {}).get("reason", ""))
        assert sorted(os.listdir(at.path / "d")) == ["cached", "new"]
        assert (at.path / "d/cached").read_bytes() == b"replaced meanwhile"
        until(lambda: at.status()["remote"]["state"] != "ok")  # after three that failed
        code, said = first_mount(day)
        assert code == 4, said
        assert "503" in said
    finally:
        occ("maintenance:mode", "--off")
    until(lambda: not is_away(day.server))
    until(lambda: not queued(at))
    assert day.server.read("d/new") == b"written meanwhile"
    assert day.server.read("d/cached") == b"replaced meanwhile"
    assert at.status()["remote"]["state"] in ("ok", "degraded")


def is_away(server: RealNextcloud) -> bool:
    try:
        server.names("")
    except AssertionError:
        return True
    return False


def first_mount(day: Day) -> tuple[int, str]:
    """Of the same account somewhere else: the exit code and what it said."""
    where, runtime = day.folder / "elsewhere", day.folder / "elsewhere.run"
    where.mkdir()
    runtime.mkdir(mode=0o700)
    source = f"nextcloud://{day.server.user}@cloud/{day.server.folder}"
    options = f"endpoint={day.url},cache_dir={where}.cache"
    given = {"MOUNTD_PASSWORD": day.server.password, "MOUNTD_RUNTIME_DIR": str(runtime)}
    done = subprocess.run(
        [sys.executable, "-m", "mountd", "mount", source, str(where), "-o", options],
        env=os.environ | given,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
        text=True,
    )
    return done.returncode, done.stderr


@needs_occ
def test_a_file_that_a_request_has_locked_is_sent_when_it_is_free(day: Day) -> None:
    day.server.put("busy", b"before")
    at = day.mount()
    assert (at.path / "busy").read_bytes() == b"before"
    with locked(day.server, "busy"):
        (at.path / "busy").write_bytes(b"after")
        until(lambda: "423" in queued(at).get("busy", {}).get("reason", ""))
        assert queued(at)["busy"]["state"] in ("pending", "uploading")
        assert (at.path / "busy").read_bytes() == b"after"
    until(lambda: not queued(at))
    assert day.server.read("busy") == b"after"
    assert day.server.names("") == ["busy"]


@contextmanager
def locked(server: RealNextcloud, path: str) -> Iterator[None]:
    """As a request locks a file that writes it, until the end."""
    kind = occ("config:system:get", "dbtype").strip()
    if kind != "sqlite3":
        pytest.skip(f"its locks are in {kind}")
    database = Path(occ("config:system:get", "datadirectory").strip()) / "owncloud.db"
    named = f"home::{server.user}::files/{server.folder}/{path}"
    key = "files/" + hashlib.md5(named.encode()).hexdigest()
    delete = "DELETE FROM oc_file_locks WHERE key = ?"
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute(delete, (key,))
        row = 'INSERT INTO oc_file_locks (key, "lock", ttl) VALUES (?, -1, 9999999999)'
        connection.execute(row, (key,))
        connection.commit()
        try:
            yield
        finally:
            connection.execute(delete, (key,))
            connection.commit()


@needs_other
def test_a_share_has_the_rights_that_its_owner_gave(day: Day, other: RealNextcloud) -> None:
    for top in ("read", "change"):
        other.put(f"{top}/f", b"bob's")
        other.put(f"{top}/sub/f", b"bob's, too")
        # Where shares land is the account's root: mountd mounts that here.
    names = {top: f"{top}-{other.folder}" for top in ("read", "change")}
    for top, name in names.items():
        other.move(top, name)
        other.share(name, day.server.user, {"read": 1, "change": 3}[top])
    with whole_account(day) as at:
        read, change = (at.path / names[top] for top in ("read", "change"))
        until(lambda: {read.name, change.name} <= set(os.listdir(at.path)))
        assert mode(read) == 0o555
        assert mode(read / "f") == 0o444
        assert mode(change / "f") == 0o644
        assert mode(change / "sub") == 0o555
        assert (read / "sub/f").read_bytes() == b"bob's, too"
        day.forget_requests()
        for shared in (read, change):
            assert refused((shared / "new").touch)
            assert refused((shared / "dir").mkdir)
            assert refused((shared / "f").unlink)
            assert refused((shared / "f").rename, shared / "g")
        assert refused(lambda: (read / "f").open("r+b"))
        assert day.requests() == {}
        (change / "f").write_bytes(b"changed by a guest")
        flush(at)
        assert other.read(f"{change.name}/f") == b"changed by a guest"
        other.put(f"{read.name}/sub/f", b"changed by bob")
        until(lambda: (read / "sub/f").read_bytes() == b"changed by bob")


@contextmanager
def whole_account(day: Day) -> Iterator[Mounted]:
    with mounted(
        f"nextcloud://{day.server.user}@cloud/",
        day.folder,
        environment={"MOUNTD_PASSWORD": day.server.password},
        endpoint=day.url,
        metadata_ttl_s=10,
    ) as at:
        yield at


@needs_other
def test_a_sign_in_that_is_granted_in_the_browser_mounts(tmp_path: Path) -> None:
    with other_account() as server:
        server.put("f", b"mine")
        env = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
        asked = ["login", "nextcloud", "cloud", "-o", f"endpoint={server.url}", "--no-browser"]
        command = [sys.executable, "-u", "-m", "mountd", *asked, "--timeout", "120"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as login:
            assert login.stdout is not None
            shown = ""
            while not (page := re.search(r"http\S+/login/v2/flow/\w+", shown)):
                line = login.stdout.readline()
                assert line, shown
                shown += line
            Browser().grant(page[0], server.user, server.password)
            shown += login.stdout.read()
            assert login.wait(60) == 0, shown
        assert f"signed in to {server.url} as {server.user}" in shown
        with mounted(
            f"nextcloud://cloud/{server.folder}",
            tmp_path,
            environment={"XDG_CONFIG_HOME": str(tmp_path)},
            endpoint=server.url,
        ) as at:
            assert (at.path / "f").read_bytes() == b"mine"
            (at.path / "new").write_bytes(b"by the app password")
            flush(at)
        assert server.read("new") == b"by the app password"


def queued(mount: Mounted) -> dict[str, dict[str, Any]]:
    """Items of the queue, by key."""
    found = json.loads(mount.cli("queue", str(mount.path), "--json"))
    return {item["path"]: item for item in found["items"]}


def room(at: Mounted) -> int:
    found = os.statvfs(at.path)
    return found.f_frsize * found.f_bavail


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno == errno.EACCES
    return False
