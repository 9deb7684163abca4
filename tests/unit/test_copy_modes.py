"""`mountd copy`: permissions go with the bytes, and folders with nothing in them are copied."""

import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.cli import main
from mountd.remotes.base import ABSENT
from mountd.transfer.filters import read_filter
from mountd.transfer.folders import plan_folders
from mountd.transfer.items import Item
from mountd.transfer.local_target import LocalTarget
from mountd.transfer.plan import Plan, Rules, make_plan
from mountd.transfer.side import Listing
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.usefixtures("own_places")

MIB = 1 << 20


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def copy(*arguments: object) -> int:
    return main(["copy", *map(str, arguments)])


def tree(root: Path) -> dict[str, str]:
    """What is below, by path (with a slash for a directory), with its permissions."""
    return {
        f"{path.relative_to(root)}{'/' if path.is_dir() else ''}": f"{path.stat().st_mode:o}"[-3:]
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name in ("logs", "runs/1", "private", "src"):
        (root / name).mkdir(parents=True)
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "big").write_bytes(b"x" * (9 * MIB))
    (root / "none").write_bytes(b"")
    (root / "src/a").write_bytes(b"a")
    (root / "private/key").write_bytes(b"k")
    for name, mode in (("run.sh", 0o755), ("big", 0o555), ("none", 0o711), ("private/key", 0o600)):
        (root / name).chmod(mode)
    (root / "private").chmod(0o700)
    return root


FILES = {"big": "555", "none": "711", "private/key": "600", "run.sh": "755", "src/a": "644"}
FOLDERS = {"logs/": "755", "private/": "755", "runs/": "755", "runs/1/": "755", "src/": "755"}


def test_a_local_tree_keeps_its_permissions_and_its_empty_folders(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert copy(project, out, "--dry-run") == 0
    assert "make logs/\nmake runs/1/\n" in capfd.readouterr().out
    assert not out.exists()
    assert copy(project, out) == 0
    assert tree(out) == FILES | FOLDERS | {"private/": "700"}
    capfd.readouterr()
    assert copy(project, out) == 0
    assert "0 files to copy" in capfd.readouterr().out


def test_the_umask_takes_from_a_new_file_what_it_takes_from_any(tmp_path: Path) -> None:
    os.umask(0o027)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(b"1")
    (tmp_path / "in/a").chmod(0o4775)
    assert copy(tmp_path / "in", tmp_path / "out") == 0
    assert stat.S_IMODE((tmp_path / "out/a").stat().st_mode) == 0o750


@pytest.mark.parametrize(("mode", "there", "then"), [(0o755, 0o640, 0o750), (0o644, 0o750, 0o640)])
def test_a_file_that_is_replaced_stays_as_readable_as_it_was_and_runs_if_the_source_does(
    tmp_path: Path, mode: int, there: int, then: int
) -> None:
    for name, data, given in (("in", b"new!", mode), ("out", b"old", there)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(data)
        (tmp_path / name / "a").chmod(given)
    assert copy(tmp_path / "in", tmp_path / "out") == 0
    assert (tmp_path / "out/a").read_bytes() == b"new!"
    assert stat.S_IMODE((tmp_path / "out/a").stat().st_mode) == then


@pytest.mark.server
def test_who_replaces_a_set_user_id_file_makes_none_of_his_own(tmp_path: Path) -> None:
    for folder, text in (("in", "new bytes"), ("out", "old")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").write_text(text)
    (tmp_path / "in/tool").chmod(0o755)
    (tmp_path / "out/tool").chmod(0o6755)
    assert copy(tmp_path / "in", tmp_path / "out") == 0
    assert (tmp_path / "out/tool").read_text() == "new bytes"
    assert stat.S_IMODE((tmp_path / "out/tool").stat().st_mode) == 0o755


def test_a_bucket_keeps_permissions_and_empty_folders_and_gives_them_back(
    s3: S3Server, project: Path, tmp_path: Path
) -> None:
    assert copy(project, "s3://b/p") == 0
    folders = [key for key in s3.keys("b") if key.endswith("/")]
    assert folders == ["p/logs/", "p/runs/1/"]
    s3.clear_log()
    assert copy(project, "s3://b/p") == 0
    assert Counter(entry.op for entry in s3.log()) == {"ListObjectsV2": 1}
    out = tmp_path / "out"
    assert copy("s3://b/p", out) == 0
    assert tree(out) == FILES | FOLDERS
    s3.clear_log()
    assert copy("s3://b/p", out) == 0
    assert Counter(entry.op for entry in s3.log()) == {"ListObjectsV2": 1}


@pytest.mark.server
def test_delete_removes_empty_folders_that_source_has_not_and_keeps_those_it_has(
    s3: S3Server, project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert copy(project, "s3://b/p") == 0
    assert copy(project, out) == 0
    (out / "old/er").mkdir(parents=True)
    s3.put("b", "p/old/", b"")
    for place in ("logs/x", "old/er/y"):
        (out / place).write_bytes(b"1")
        s3.put("b", f"p/{place}", b"1")
    for target in ("s3://b/p", out):
        assert copy(project, target) == 0
    assert (out / "old/er/y").exists()
    for target in ("s3://b/p", out):
        assert copy(project, target, "--delete", "--exclude", "er") == 0
    assert tree(out) == FILES | FOLDERS | {
        "private/": "700", "old/": "755", "old/er/": "755", "old/er/y": "644",
    }  # fmt: skip
    assert [key for key in s3.keys("b") if "old" in key] == ["p/old/", "p/old/er/y"]
    for target in ("s3://b/p", out):
        assert copy(project, target, "--delete") == 0
    assert tree(out) == FILES | FOLDERS | {"private/": "700"}
    assert [key for key in s3.keys("b") if key.endswith("/")] == ["p/logs/", "p/runs/1/"]


@pytest.mark.server
def test_between_two_remotes_time_and_permissions_go_along(
    s3: S3Server, project: Path, tmp_path: Path
) -> None:
    s3.make_bucket("c")
    os.utime(project / "run.sh", ns=(5, 1_234_567_890_123_456_789))
    other = s3.endpoint.replace("127.0.0.1", "localhost")
    (tmp_path / "config.toml").write_text(f'[remotes.c]\nsource="s3://c"\nendpoint="{other}"\n')
    assert copy(project, "s3://b/p") == 0
    assert copy("s3://b/p", "c:q") == 0
    assert not [e for e in s3.log(op="CopyObject") if "probe" not in e.key]
    assert copy("s3://c/q", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == FILES | FOLDERS
    assert (tmp_path / "out/run.sh").stat().st_mtime_ns == 1_234_567_890_123_456_789


@pytest.mark.server
def test_a_nextcloud_has_the_empty_folders_and_loses_them_with_delete(
    nextcloud_server: NextcloudServer,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOUNTD_PASSWORD", nextcloud_server.password)
    url = f"nextcloud://{nextcloud_server.user}@cloud/new"
    options = ["-o", f"endpoint={nextcloud_server.url}"]
    assert copy(project, url, *options) == 0
    for name in ("logs", "runs/1"):
        assert nextcloud_server.node(f"new/{name}") is not None
    nextcloud_server.mkdir("new/old")
    nextcloud_server.clear_log()
    assert copy(project, url, *options) == 0
    assert {entry.method for entry in nextcloud_server.log()} <= {"PROPFIND", "GET"}
    assert copy(project, url, *options, "--delete") == 0
    assert nextcloud_server.node("new/old") is None
    assert nextcloud_server.node("new/logs") is not None
    assert copy(url, tmp_path / "out", *options) == 0
    assert tree(tmp_path / "out") == dict.fromkeys(FILES, "644") | FOLDERS


def test_a_killed_run_that_has_made_its_partial_file_read_only_is_gone_on_with(
    tmp_path: Path,
) -> None:
    target = LocalTarget(os.fspath(tmp_path))
    item = Item("a", 3, 0, "v")
    fd = target.open_partial(item)
    os.fchmod(fd, 0)
    os.close(fd)
    fd = target.open_partial(item)
    os.write(fd, b"new")
    os.close(fd)


_INTO_A_READ_ONLY_FOLDER = """
import os, tempfile
from mountd.transfer.items import Item
from mountd.transfer.local_target import LocalTarget
with tempfile.TemporaryDirectory() as folder:
    target = LocalTarget(folder)
    os.chmod(folder, 0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        target.open_partial(Item("a", 1, 0, "v"))
    except OSError as error:
        print(type(error).__name__)
    os.seteuid(user)
"""


def test_a_folder_that_may_not_be_written_to_is_no_file_that_is_missing() -> None:
    command = [sys.executable, "-c", _INTO_A_READ_ONLY_FOLDER]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout == "PermissionError\n"


def folders(*names: str) -> dict[str, int | None]:
    return dict.fromkeys(names)


def planned(source: Listing, target: Listing, rules: Rules) -> Plan:
    plan = make_plan(source.items, target.items, rules)
    plan_folders(plan, source, target, rules)
    return plan


def test_only_folders_with_nothing_in_them_are_planned() -> None:
    source = Listing({"a/b": Item("a/b", 1, 1, "1")}, folders("a", "c", "c/d", "e", "t"))
    target = Listing(folders=folders("e/f"))
    plan = planned(source, target, Rules(filter=read_filter([], ["t"])))
    assert plan.folders == ["c/d"]
    assert plan.old_folders == []


def test_what_empties_a_folder_of_a_bucket_leaves_the_one_that_source_has() -> None:
    target = Listing({"d/x": Item("d/x", 1, 1, "1")})
    source = Listing({"a": Item("a", 1, 1, "1")}, folders("d"))
    assert planned(source, target, Rules()).folders == []
    assert planned(source, target, Rules(delete=True)).folders == ["d"]


def test_a_folder_where_a_file_is_and_one_without_a_name_are_refused() -> None:
    source = Listing({"b": Item("b", 1, 1, "1")}, folders("a/x", "b", "../c", "d"))
    target = Listing({"a": Item("a", 1, 1, "1")})
    plan = planned(source, target, Rules(target_is_local=True))
    assert sorted(one.path for one in plan.refusals) == ["../c/", "a/x/", "b/"]
    assert plan.folders == ["d"]


def test_nothing_is_removed_for_a_source_with_nothing_in_it() -> None:
    target = Listing(folders=folders("a", "a/b"))
    assert planned(Listing(), target, Rules(delete=True)).old_folders == []
    forced = planned(Listing(), target, Rules(delete=True, delete_all=True))
    assert forced.old_folders == ["a", "a/b"]


def test_a_partial_file_is_nobody_elses_also_where_the_source_tells_no_modes(
    tmp_path: Path,
) -> None:
    """It may replace a file that only its owner reads."""
    target = LocalTarget(str(tmp_path))
    target.prepare()
    item = Item("a", 3, 0, "v1")
    fd = target.open_partial(item)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    target.write(fd, b"abc", 0)
    target.place(target.finished(fd, item, 0, ABSENT))
    os.close(fd)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
