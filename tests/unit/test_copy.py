"""`mountd copy`, through the command line, between local directories and the S3 test server."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from mountd.cli import main
from mountd.remotes.local import LocalStore
from mountd.transfer.side import Listing, Side, list_side
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("own_places")]

MIB = 1 << 20


def copy(*arguments: object) -> int:
    return main(["copy", *map(str, arguments)])


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def make(root: Path, **content: bytes) -> Path:
    for name, data in content.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def ops(server: S3Server) -> Counter[str]:
    return Counter(entry.op for entry in server.log())


def test_a_second_run_sends_nothing_and_needs_one_listing(s3: S3Server, tmp_path: Path) -> None:
    s3.put("b", "d/a", b"one")
    s3.put("b", "d/e/big", b"x" * (9 * MIB))
    s3.put("b", "d/empty", b"")
    assert copy("s3://b/d", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {"a": b"one", "e/big": b"x" * (9 * MIB), "empty": b""}
    s3.clear_log()
    assert copy("s3://b/d", tmp_path / "out") == 0
    assert ops(s3) == {"ListObjectsV2": 1}


def test_uploading_again_sends_nothing_and_needs_one_listing(s3: S3Server, tmp_path: Path) -> None:
    local = make(tmp_path / "in", a=b"one", d__big=b"y" * (17 * MIB), empty=b"")
    assert copy(local, "s3://b/p") == 0
    assert {key: s3.read("b", key) for key in s3.keys("b")} == {
        f"p/{path}": data for path, data in files(local).items()
    }
    s3.clear_log()
    assert copy(local, "s3://b/p") == 0
    assert ops(s3) == {"ListObjectsV2": 1}


def test_without_its_record_an_upload_knows_the_same_bytes_by_their_checksum(
    s3: S3Server, tmp_path: Path
) -> None:
    local = make(tmp_path / "in", a=b"one", b=b"two")
    assert copy(local, "s3://b/p") == 0
    os.utime(local / "a")
    (local / "b").write_bytes(b"TWO")
    s3.clear_log()
    assert copy(local, "s3://b/p", "-o", f"cache_dir={tmp_path / 'other'}") == 0
    assert [entry.key for entry in s3.log(op="PutObject") if "probe" not in entry.key] == ["p/b"]
    assert s3.read("b", "p/b") == b"TWO"


def test_times_and_links_come_back(s3: S3Server, tmp_path: Path) -> None:
    local = make(tmp_path / "in", a=b"one", big=b"z" * (9 * MIB))
    for name in ("a", "big"):
        os.utime(local / name, ns=(5, 1_234_567_890_123_456_789))
    (local / "link").symlink_to("../a")
    assert copy(local, "s3://b/p") == 0
    assert s3.read("b", "p/link.rclonelink") == b"../a"
    assert copy("s3://b/p", tmp_path / "out") == 0
    for name in ("a", "big"):
        assert (tmp_path / "out" / name).stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert os.readlink(tmp_path / "out/link") == "../a"
    s3.clear_log()
    assert copy("s3://b/p", tmp_path / "out") == 0
    assert copy(local, "s3://b/p") == 0
    assert ops(s3) == {"ListObjectsV2": 2}


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    source, target = make(tmp_path / "in", a=b"new!"), make(tmp_path / "out", a=b"old")
    (target / "a").chmod(0o640)
    assert copy(f"file://{source / 'a'}", target) == 0
    assert (target / "a").stat().st_mode & 0o777 == 0o640
    assert files(target) == {"a": b"new!"}


def test_an_empty_file_of_a_bucket_keeps_its_time(s3: S3Server, tmp_path: Path) -> None:
    s3.put("b", "p/a", b"", headers={"x-amz-meta-mtime": "1234567890.5"})
    assert copy("s3://b/p", tmp_path / "out") == 0
    assert (tmp_path / "out/a").stat().st_mtime == 1234567890.5


def test_links_of_a_local_source_are_not_followed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    local = make(tmp_path / "in", a=b"one")
    (local / "out").symlink_to("/etc")
    os.mkfifo(local / "pipe")
    target = tmp_path / "copy"
    assert copy(local, f"file://{target}") == 0
    assert os.readlink(target / "out") == "/etc"
    assert "pipe is skipped" in capfd.readouterr().err
    # A link on the way at the target is not followed either.
    elsewhere = make(tmp_path / "elsewhere")
    elsewhere.mkdir()
    (tmp_path / "t2").mkdir()
    (tmp_path / "t2/d").symlink_to(elsewhere)
    assert copy(make(tmp_path / "in2", d__x=b"1", e=b"2"), tmp_path / "t2") == 1
    assert files(tmp_path / "t2") == {"e": b"2"}
    assert list(elsewhere.iterdir()) == []
    assert "d/x: d is a file at DEST" in capfd.readouterr().err


def test_a_remote_copies_to_itself_without_our_reading_it(s3: S3Server, tmp_path: Path) -> None:
    s3.put_many("b", ["p/a", "p/d/b", "p/d"], b"same")
    assert copy("s3://b/p", "s3://b/q/r") == 0
    assert {
        key: s3.read("b", key) for key in s3.keys("b") if key.startswith("q/")
    } == dict.fromkeys(("q/r/a", "q/r/d/b", "q/r/d"), b"same")
    assert not [entry for entry in s3.log(op="GetObject") if "probe" not in entry.key]
    s3.clear_log()
    assert copy("s3://b/p", "s3://b/q/r") == 0
    assert ops(s3) == {"ListObjectsV2": 2}


def test_between_two_buckets_of_an_account_the_remote_copies_by_itself(s3: S3Server) -> None:
    s3.make_bucket("c")
    s3.put("b", "p/big", b"w" * (20 * MIB))
    s3.put("b", "p/a", b"one")
    s3.put("c", "x/a", b"old")
    assert copy("s3://b/p", "s3://c/x", "--verify") == 0
    assert s3.read("c", "x/a") == b"one"
    assert s3.read("c", "x/big") == b"w" * (20 * MIB)
    copied = {entry.key for entry in s3.log(op="CopyObject", bucket="c")}
    assert copied >= {"x/a", "x/big"}
    assert not [entry for entry in s3.log(op="GetObject") if "probe" not in entry.key]


def test_a_source_that_changed_is_not_copied_between_buckets_as_what_it_was(s3: S3Server) -> None:
    s3.make_bucket("c")
    s3.put("b", "p/a", b"listed")
    s3.faults({"op": "CopyObject", "key": "x/a", "hold": True, "times": 1})
    process = started("s3://b/p", "s3://c/x")
    s3.wait_for_requests(1, op="CopyObject", prefix="x/a")
    s3.put("b", "p/a", b"changed!")
    s3.release()
    assert process.wait(30) == 0
    assert s3.read("c", "x/a") == b"changed!"
    assert len(s3.log(op="CopyObject", prefix="x/a")) >= 1


def test_between_two_remotes_it_goes_through_us(s3: S3Server, tmp_path: Path) -> None:
    s3.make_bucket("c")
    s3.put("b", "big", b"w" * (20 * MIB))
    s3.put("b", "a", b"one")
    other = s3.endpoint.replace("127.0.0.1", "localhost")
    (tmp_path / "config.toml").write_text(f'[remotes.c]\nsource="s3://c"\nendpoint="{other}"\n')
    assert copy("s3://b", "c:x", "--verify") == 0
    assert s3.read("c", "x/a") == b"one"
    assert s3.read("c", "x/big") == b"w" * (20 * MIB)
    assert not [e for e in s3.log(op="CopyObject") if "probe" not in e.key]


def test_delete_removes_only_what_source_has_not(s3: S3Server, tmp_path: Path) -> None:
    local = make(tmp_path / "in", a=b"1", d__b=b"2")
    assert copy(local, "s3://b/p") == 0
    s3.put("b", "p/extra", b"3")
    assert copy(local, "s3://b/p") == 0
    assert "p/extra" in s3.keys("b")
    assert copy(local, "s3://b/p", "--delete", "--dry-run") == 0
    assert "p/extra" in s3.keys("b")
    assert copy(local, "s3://b/p", "--delete") == 0
    assert s3.keys("b") == ["p/a", "p/d/b"]
    out = make(tmp_path / "out", x__y=b"4", a=b"old")
    assert copy("--delete", "s3://b/p", out) == 0
    assert files(out) == {"a": b"1", "d/b": b"2"}
    assert not (out / "x").exists()


def test_an_empty_source_deletes_nothing_without_force(s3: S3Server, tmp_path: Path) -> None:
    out = make(tmp_path / "out", a=b"1")
    (tmp_path / "empty").mkdir()
    for source in ("s3://b/nothing", tmp_path / "empty"):
        assert copy(source, out, "--delete") == 2
        assert files(out) == {"a": b"1"}
    assert copy(tmp_path / "missing", out, "--delete=force") == 1
    assert files(out) == {"a": b"1"}
    assert copy(tmp_path / "empty", out, "--delete=force") == 0
    assert files(out) == {}


@pytest.mark.parametrize("option", ["--delete", "--delete=force"])
def test_a_source_that_is_one_file_is_no_empty_folder_and_deletes_nothing(
    s3: S3Server, tmp_path: Path, option: str
) -> None:
    s3.put("b", "d/one", b"1")
    out = make(tmp_path / "out", other=b"2")
    assert copy("s3://b/d/one", out, option) == 0
    assert files(out) == {"one": b"1", "other": b"2"}


def test_an_empty_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    side = Side("", LocalStore(os.fspath(tmp_path)), only="empty")
    assert list_side(side, links=False) == Listing(is_there=False)


def test_an_empty_word_is_not_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, here = make(tmp_path / "data", a=b"1"), make(tmp_path / "here", b=b"2")
    monkeypatch.chdir(here)
    assert copy(data, "", "--delete") == 2
    assert copy("", tmp_path / "out") == 2
    assert files(here) == {"b": b"2"}


def test_a_listing_that_breaks_off_deletes_and_copies_nothing(s3: S3Server, tmp_path: Path) -> None:
    s3.put_many("b", ["p/a", "p/b"])
    out = make(tmp_path / "out", extra=b"1")
    s3.set_knobs(page_size=1)
    s3.faults({"op": "ListObjectsV2", "skip": 1, "status": 403})
    assert copy("s3://b/p", out, "--delete") == 3
    assert files(out) == {"extra": b"1"}


def test_a_file_that_failed_is_named_and_nothing_is_deleted_then(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put_many("b", ["p/a", "p/b"])
    out = make(tmp_path / "out", extra=b"1")
    s3.faults({"op": "GetObject", "key": "p/b", "status": 403})
    assert copy("s3://b/p", out, "--delete") == 3
    assert files(out) == {"a": b"x", "extra": b"1"}
    assert "1 file not copied: b: " in capfd.readouterr().err


def test_a_dry_run_says_what_and_changes_nothing(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put_many("b", ["p/a.jpg", "p/d/b.jpg", "p/c.txt"])
    out = tmp_path / "out"
    assert copy("s3://b/p", out, "--dry-run", "--include", "*.jpg", "--exclude", "d") == 0
    said = capfd.readouterr().out
    assert "1 file to copy, 1 B" in said
    assert "free" in said
    assert "copy a.jpg" in said
    assert not out.exists()


def test_a_single_file_goes_into_dest_under_its_name(s3: S3Server, tmp_path: Path) -> None:
    s3.put_many("b", ["p/a", "p/ab"])
    assert copy("s3://b/p/a", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {"a": b"x"}
    assert copy(tmp_path / "out/a", "s3://b/q") == 0
    assert copy(tmp_path / "out/a", "s3://b/q") == 0
    assert s3.keys("b") == ["p/a", "p/ab", "q/a"]
    assert len([e for e in s3.log(op="PutObject") if e.key == "q/a"]) == 1


def test_what_cant_be_a_local_name_is_named_and_the_rest_is_copied(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put_many("b", ["p/a", "p/../evil", "p/x//y", "p/f", "p/f/g"])
    assert copy("s3://b/p", tmp_path / "d/out") == 1
    assert files(tmp_path / "d") == {"out/a": b"x", "out/f/g": b"x"}
    assert "3 files not copied" in capfd.readouterr().err


def test_nothing_is_overwritten_that_changed_since_the_listing(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    local = make(tmp_path / "in", a=b"ours")
    s3.put("b", "p/a", b"old")
    s3.faults({"op": "PutObject", "key": "p/a", "hold": True, "times": 1})
    process = started(local, "s3://b/p")
    s3.wait_for_requests(1, op="PutObject", prefix="p/a")
    s3.put("b", "p/a", b"theirs!")
    s3.release()
    assert process.wait(30) == 1
    assert s3.read("b", "p/a") == b"theirs!"


def started(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mountd", "copy", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_an_interrupted_copy_says_how_far_it_came_and_goes_on(s3: S3Server, tmp_path: Path) -> None:
    s3.put_many("b", [f"p/{n}" for n in range(40)])
    s3.faults({"op": "GetObject", "skip": 10, "hold": True})
    # (Whoever runs pytest in the background has SIGINT ignored.)
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "import sys; from mountd.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "copy", "s3://b/p", os.fspath(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        s3.wait_for_requests(12, op="GetObject", prefix="p/")
        process.send_signal(signal.SIGINT)
        while process.poll() is None:  # it ends what it has begun
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            s3.release()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert re.fullmatch(
        r"mountd: interrupted; \d+ of 40 files copied; the same command again copies what is "
        r"missing\n",
        said,
    )
    s3.clear_faults()
    assert copy("s3://b/p", tmp_path / "out") == 0
    assert len(files(tmp_path / "out")) == 40


def test_a_killed_download_fetches_only_what_has_not_arrived(s3: S3Server, tmp_path: Path) -> None:
    big, out = os.urandom(40 * MIB), tmp_path / "out"
    s3.put("b", "p/big", big)
    s3.put_many("b", [f"p/{n}" for n in range(20)], b"s" * 1000)
    s3.faults(
        {"op": "GetObject", "key": "p/big", "skip": 3, "hang": True},
        {"op": "GetObject", "key": "p/7", "hang": True},
    )
    process = started("s3://b/p", out)
    s3.wait_for_requests(25, op="GetObject")
    wait_until_arrived(tmp_path, 3 + 19)
    kill(process)
    assert not (out / "big").exists()
    s3.clear_faults()
    s3.clear_log()
    assert copy("s3://b/p", out) == 0
    assert sum(entry.bytes_sent for entry in s3.log(op="GetObject")) < 17 * MIB + 2000
    assert len(s3.log(op="GetObject")) == 3
    assert (out / "big").read_bytes() == big
    assert len(files(out)) == 21
    assert [name for name in os.listdir(out) if name.startswith(".")] == []


def wait_until_arrived(tmp_path: Path, count: int, row: bytes = b'"part"') -> None:
    """Until the record of the one copy says that so many ranges are here."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        logs = tmp_path.glob("cache/copies/*/log")
        if sum(path.read_bytes().count(row) for path in logs) >= count:
            return
        time.sleep(0.01)
    raise TimeoutError("they did not arrive")


def test_what_a_killed_run_left_of_a_file_that_changed_since_is_removed(
    s3: S3Server, tmp_path: Path
) -> None:
    s3.put("b", "p/big", os.urandom(20 * MIB))
    s3.faults({"op": "GetObject", "skip": 1, "hang": True})
    process = started("s3://b/p", tmp_path / "out")
    wait_until_arrived(tmp_path, 1)
    kill(process)
    assert len(os.listdir(tmp_path / "out")) == 1
    s3.clear_faults()
    s3.put("b", "p/big", b"small")
    assert copy("s3://b/p", tmp_path / "out") == 0
    assert os.listdir(tmp_path / "out") == ["big"]


def test_parts_that_are_not_what_the_record_says_are_fetched_again(
    s3: S3Server, tmp_path: Path
) -> None:
    big, out = os.urandom(17 * MIB), tmp_path / "out"
    s3.put("b", "p/big", big)
    s3.faults({"op": "GetObject", "skip": 2, "hang": True})
    process = started("s3://b/p", out)
    wait_until_arrived(tmp_path, 2)
    kill(process)
    (partial,) = out.iterdir()
    with partial.open("r+b") as file:
        file.write(bytes(16 * MIB))
    s3.clear_faults()
    assert copy("s3://b/p", out) == 0
    assert (out / "big").read_bytes() == big


def test_a_killed_upload_sends_only_what_has_not_arrived(s3: S3Server, tmp_path: Path) -> None:
    local = make(tmp_path / "in", small=b"1", big=os.urandom(48 * MIB))
    s3.faults({"op": "UploadPart", "key": "p/big", "skip": 1, "hold": True})
    process = started(local, "s3://b/p")
    s3.wait_for_requests(3, op="UploadPart", prefix="p/big")
    wait_until_done(s3, "UploadPart", 1)
    wait_until_arrived(tmp_path, 1, b'"same","small"')
    kill(process)
    s3.clear_faults()
    s3.release()
    s3.clear_log()
    assert copy(local, "s3://b/p") == 0
    assert s3.read("b", "p/big") == (local / "big").read_bytes()
    parts = s3.log(op="UploadPart", prefix="p/big")
    assert len(parts) == 2
    assert [e for e in s3.log(op="PutObject") if e.key == "p/small"] == []


def wait_until_done(server: S3Server, op: str, count: int) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if len([e for e in server.log(op=op, prefix="p/big") if e.status == 200]) >= count:
            return
        time.sleep(0.01)
    raise TimeoutError(op)


def test_a_source_that_changes_meanwhile_is_copied_as_it_is_then(
    s3: S3Server, tmp_path: Path
) -> None:
    s3.put("b", "p/big", b"1" * (9 * MIB))
    s3.faults({"op": "GetObject", "hold": True, "times": 2})
    process = started("s3://b/p", tmp_path / "out")
    s3.wait_for_requests(2, op="GetObject")
    s3.put("b", "p/big", b"2" * (10 * MIB))
    s3.release()
    assert process.wait(30) == 0
    assert (tmp_path / "out/big").read_bytes() == b"2" * (10 * MIB)
    assert os.listdir(tmp_path / "out") == ["big"]


def test_verify_names_a_file_that_came_with_other_bytes(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put_many("b", ["p/a", "p/b"], b"good")
    s3.faults({"op": "GetObject", "key": "p/a", "flip_at": 2})
    assert copy("s3://b/p", tmp_path / "out", "--verify") == 1
    assert files(tmp_path / "out") == {"b": b"good"}
    assert "a: its MD5 is" in capfd.readouterr().err
    s3.clear_faults()
    assert copy("s3://b/p", tmp_path / "out", "--verify") == 0
    (tmp_path / "out/b").write_bytes(b"evil")
    os.utime(tmp_path / "out/b", (1, 1))
    assert copy("s3://b/p", tmp_path / "out", "--verify") == 0
    assert files(tmp_path / "out") == {"a": b"good", "b": b"good"}


def test_a_lost_answer_to_a_put_is_not_sent_twice(s3: S3Server, tmp_path: Path) -> None:
    local = make(tmp_path / "in", a=b"x" * 300_000)
    s3.faults({"op": "PutObject", "key": "p/a", "lose_reply": True, "times": 1})
    assert copy(local, "s3://b/p") == 0
    assert len([e for e in s3.log(op="PutObject") if e.key == "p/a"]) == 1


@pytest.mark.parametrize(
    ("source", "dest"), [("s3://b/p", "s3://b/p/q"), ("s3://b", "s3://b/x"), ("/a", "/a/b")]
)
def test_a_copy_into_itself_is_refused(
    s3: S3Server, source: str, dest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert copy(source, dest) == 2
    assert "lies inside SOURCE" in capfd.readouterr().err
    assert s3.log() == []
