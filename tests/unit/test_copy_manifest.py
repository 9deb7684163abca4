"""Manifests through the command line: made by `copy --manifest` and `manifest`, taken as SOURCE."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mountd.cli import main
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("own_places")]


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """With two buckets, in this process's environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.put_many("b", ["p/a", "p/d/b"], b"one")
    s3_server.put_many("c", ["q/x", "q/y"], b"two!")
    s3_server.clear_log()
    return s3_server


def run(*arguments: object) -> int:
    return main(list(map(str, arguments)))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def ops(server: S3Server) -> Counter[str]:
    return Counter(entry.op for entry in server.log())


def test_a_download_lists_source_and_the_list_is_a_source(s3: S3Server, tmp_path: Path) -> None:
    listed = tmp_path / "set.json"
    assert run("copy", "s3://b/p", tmp_path / "out", "--manifest", listed) == 0
    found = read(listed)
    assert found["locations"] == [{"source": "s3://b/p", "endpoint": s3.endpoint}]
    assert [(f["path"], f["size"]) for f in found["files"]] == [("a", 3), ("d/b", 3)]
    assert all(f["version"].strip('"') == f["md5"] for f in found["files"])
    assert "SECRET" not in listed.read_text()
    s3.clear_log()
    assert run("copy", f"manifest:{listed}", tmp_path / "again") == 0
    assert ops(s3) == {"GetObject": 2}
    assert files(tmp_path / "again") == {"a": b"one", "d/b": b"one"}
    s3.clear_log()
    assert run("copy", f"manifest:{listed}", tmp_path / "again") == 0
    assert s3.log() == []


def test_the_same_set_gives_the_same_bytes(s3: S3Server, tmp_path: Path) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    assert run("copy", "s3://b/p", tmp_path / "out", "--manifest", one) == 0
    assert run("copy", "--manifest", two, "s3://b/p") == 0
    assert one.read_bytes() == two.read_bytes()
    assert run("copy", "s3://b/p", tmp_path / "out", "--manifest", two) == 0
    assert one.read_bytes() == two.read_bytes()


def test_an_upload_lists_dest(s3: S3Server, tmp_path: Path) -> None:
    local, listed = tmp_path / "in", tmp_path / "set.json"
    (local / "d").mkdir(parents=True)
    (local / "d/f").write_bytes(b"here")
    (local / "g").write_bytes(b"")
    (local / "link").symlink_to("g")
    for _ in range(2):  # also where nothing was left to be sent
        assert run("copy", local, "s3://b/new", "--manifest", listed) == 0
        found = read(listed)
        assert found["locations"][0]["source"] == "s3://b/new"
        assert [f["path"] for f in found["files"]] == ["d/f", "g", "link.rclonelink"]
        assert run("copy", f"manifest:{listed}", tmp_path / "back", "--verify") == 0
    assert files(tmp_path / "back") == {"d/f": b"here", "g": b"", "link": b""}
    assert os.readlink(tmp_path / "back/link") == "g"


def test_several_buckets_are_one_set(s3: S3Server, tmp_path: Path) -> None:
    listed, more = tmp_path / "set.json", tmp_path / "more.json"
    (tmp_path / "local").mkdir()
    (tmp_path / "local/l").write_bytes(b"3")
    assert run("manifest", listed, "s3://b/p", "raw/c=s3://c/q") == 0
    assert run("manifest", more, f"manifest:{listed}", f"mine={tmp_path}/local") == 0
    found = read(more)
    assert len(found["locations"]) == 3
    assert [f["path"] for f in found["files"]] == ["a", "d/b", "mine/l", "raw/c/x", "raw/c/y"]
    assert run("copy", f"manifest:{more}", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {
        "a": b"one",
        "d/b": b"one",
        "mine/l": b"3",
        "raw/c/x": b"two!",
        "raw/c/y": b"two!",
    }


def test_two_files_of_one_name_are_no_set(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("manifest", tmp_path / "set.json", "s3://b/p", "s3://b/p") == 2
    assert "'a' is there twice" in capfd.readouterr().err
    assert not (tmp_path / "set.json").exists()


def test_checksums_are_asked_for_or_read(s3: S3Server, tmp_path: Path) -> None:
    headers = {"x-amz-checksum-crc32c": "4waSgw=="}
    s3.put("b", "s/parts", b"123456789", etag="parts-2", headers=headers)
    listed = tmp_path / "verified.json"
    assert run("copy", "s3://b/s", tmp_path / "out", "--verify", "--manifest", listed) == 0
    assert read(listed)["files"][0]["crc32c"] == "e3069283"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f").write_bytes(b"123456789")
    assert run("manifest", tmp_path / "set.json", tmp_path / "in", "--checksums") == 0
    (found,) = read(tmp_path / "set.json")["files"]
    assert (found["crc32c"], found["md5"]) == ("e3069283", "25f9e794323b453885f5181f1b624d0b")


def test_a_file_that_changed_since_is_named_and_the_rest_is_copied(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], expected_log: Any
) -> None:
    expected_log("is another version by now|is gone")
    listed = tmp_path / "set.json"
    assert run("manifest", listed, "s3://b/p", "s3://c/q") == 0
    s3.put("b", "p/a", b"new")
    s3.delete("c", "q/y")
    assert run("copy", f"manifest:{listed}", tmp_path / "out") == 1
    said = capfd.readouterr().err
    assert "2 files not copied" in said
    assert "a is not the manifest's version any more" in said
    assert files(tmp_path / "out") == {"d/b": b"one", "x": b"two!"}


def test_what_dests_account_has_is_copied_by_the_remote_and_the_rest_by_us(
    s3: S3Server, tmp_path: Path
) -> None:
    elsewhere = s3.endpoint.replace("127.0.0.1", "localhost")
    (tmp_path / "config.toml").write_text(
        f'[remotes.far]\nsource="s3://far"\nendpoint="{elsewhere}"\n'
    )
    s3.put_many("far", ["z"], b"three")
    listed = tmp_path / "set.json"
    assert run("manifest", listed, "s3://b/p", "s3://c/q", "far:") == 0
    s3.clear_log()
    assert run("copy", f"manifest:{listed}", "s3://c/set", "--verify") == 0
    found = {key: s3.read("c", f"set/{key}") for key in ("a", "d/b", "x", "y", "z")}
    assert found == {"a": b"one", "d/b": b"one", "x": b"two!", "y": b"two!", "z": b"three"}
    copied = {entry.key for entry in s3.log(op="CopyObject") if "probe" not in entry.key}
    assert copied == {"set/a", "set/d/b", "set/x", "set/y"}
    assert [e.key for e in s3.log(op="GetObject") if "probe" not in e.key] == ["z"]


def test_the_remote_copies_the_manifests_version_and_no_other(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], expected_log: Any
) -> None:
    expected_log("is another version by now|is gone")
    listed = tmp_path / "set.json"
    assert run("manifest", listed, "s3://b/p", "s3://b/p/d") == 0
    s3.put("b", "p/a", b"new")
    assert run("copy", f"manifest:{listed}", "s3://b/set") == 1
    assert "a is not the manifest's version any more" in capfd.readouterr().err
    assert [key for key in s3.keys("b") if key.startswith("set/")] == ["set/b", "set/d/b"]
    gets = [e.key for e in s3.log(op="GetObject") if "probe" not in e.key]
    assert set(gets) <= {"p/a"}


def test_bytes_that_are_not_what_the_manifest_says_are_named(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put("b", "p/a", b"one", etag="parts-2")
    listed = tmp_path / "set.json"
    assert run("manifest", listed, "s3://b/p") == 0
    document = read(listed)
    document["files"][0]["sha256"] = "0" * 64
    listed.write_text(json.dumps(document))
    assert run("copy", f"manifest:{listed}", tmp_path / "out", "--verify") == 1
    assert "a: its SHA256 is" in capfd.readouterr().err
    assert files(tmp_path / "out") == {"d/b": b"one"}


def test_a_list_is_written_only_of_what_was_copied_without_failures(
    s3: S3Server, tmp_path: Path
) -> None:
    s3.faults({"op": "GetObject", "key": "p/a", "status": 403})
    assert run("copy", "s3://b/p", tmp_path / "out", "--manifest", tmp_path / "set.json") == 3
    assert run("copy", "s3://b/p", tmp_path / "o", "--dry-run", "--manifest", tmp_path / "s") == 0
    assert not (tmp_path / "set.json").exists()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nextcloud://evil.example/x", "only with a remote of the config file"),
        ("file:///etc", "outside of the manifest's own"),
        ("s3://", "names a user, or no bucket"),
        ("s3://key:secret@b/p", "holds a password"),
        ("webdav://me@h/p", "names a user"),
        ("rclone:none:x", "none"),
        ("manifest:other.json", "no URL|there is no remote"),
    ],
)
def test_a_manifest_is_not_told_a_password_and_reads_no_folder_of_its_choice(
    tmp_path: Path, source: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "set.json"
    rows = [{"path": "passwd", "size": 5, "version": "v"}]
    document = {"mountd_manifest": 1, "locations": [{"source": source}], "files": rows}
    listed.write_text(json.dumps(document))
    code = run("copy", f"manifest:{listed}", tmp_path / "out")
    said = capfd.readouterr().err
    assert code in (1, 2), said
    assert len(said.splitlines()) == 1
    assert any(word in said for word in words.split("|")), said
    assert "secret" not in said
    assert not (tmp_path / "out").exists()


def test_a_location_of_the_config_file_is_reached_with_what_is_written_there(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, elsewhere = tmp_path / "sets/set.json", tmp_path / "data"
    listed.parent.mkdir()
    elsewhere.mkdir()
    (elsewhere / "l").write_bytes(b"3")
    assert run("manifest", listed, f"{elsewhere}", "s3://b/p") == 0
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert run("copy", f"manifest:{listed}", tmp_path / "out") == 2
    (tmp_path / "config.toml").write_text(
        f'[remotes.here]\nsource = "file://{tmp_path}"\n'
        f'[remotes.lab]\nsource = "s3://b"\nendpoint = "{s3.endpoint}"\n'
    )
    assert run("copy", f"manifest:{listed}", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {"a": b"one", "d/b": b"one", "l": b"3"}


def test_another_endpoint_than_the_manifests_is_said_before_anything_is_asked(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "set.json"
    assert run("manifest", listed, "s3://b/p") == 0
    s3.clear_log()
    other = "http://127.0.0.1:1"
    assert run("copy", f"manifest:{listed}", tmp_path / "out", "-o", f"endpoint={other}") == 2
    assert f"and {other} is configured" in capfd.readouterr().err
    assert s3.log() == []


def test_a_manifest_is_no_dest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "set.json"
    listed.write_text('{"mountd_manifest": 1, "locations": [], "files": []}')
    assert run("copy", tmp_path, f"manifest:{listed}") == 2
    assert "--manifest FILE" in capfd.readouterr().err
    assert run("copy", tmp_path) == 2
    assert "DEST is missing" in capfd.readouterr().err
