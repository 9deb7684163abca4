"""`mountd mount manifest:FILE`: a snapshot of files in several buckets, at a path."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.cli import main
from mountd.manifest import Location, ManifestFile, make_manifest, write_manifest
from tests.mount.mounting import Mounted, mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.fixture
def environment(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    s3_server.put_many("b", ["p/a", "p/d/b", "p/d/e/f"], b"one")
    s3_server.put_many("c", ["q/x", "q/d/y"], b"two!")
    (tmp_path / "config.toml").write_text("")
    found = s3_server.environment() | {"MOUNTD_CONFIG": str(tmp_path / "config.toml")}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def listed(environment: dict[str, str], tmp_path: Path) -> Path:
    path = tmp_path / "set.json"
    assert main(["manifest", str(path), "s3://b/p", "more=s3://c/q"]) == 0
    return path


@pytest.fixture
def mount(listed: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Mounted]:
    with mounted(f"manifest:{listed}", tmp_path, environment=environment) as one:
        yield one


def tree(root: Path) -> list[str]:
    """As `ls -lR` looks at it."""
    found = []
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            found.append(f"{path.relative_to(root)} {path.lstat().st_size if name in files else 0}")
    return sorted(found)


def test_the_whole_tree_is_listed_without_a_request_and_read_from_both_buckets(
    mount: Mounted, s3_server: S3Server
) -> None:
    s3_server.clear_log()
    assert tree(mount.path) == [
        *("a 3", "d 0", "d/b 3", "d/e 0", "d/e/f 3"),
        *("more 0", "more/d 0", "more/d/y 4", "more/x 4"),
    ]
    assert s3_server.log() == []
    assert mount.requests() == {"get": 0, "put": 0, "list": 0, "stat": 0}
    assert (mount.path / "d/e/f").read_bytes() == b"one"
    assert (mount.path / "more/d/y").read_bytes() == b"two!"
    assert [entry.op for entry in s3_server.log()] == ["GetObject", "GetObject"]


def test_what_is_mounted_is_copied_as_it_is_there(
    mount: Mounted, listed: Path, tmp_path: Path
) -> None:
    listed.unlink()
    mount.cli("copy", str(mount.path / "d"), str(tmp_path / "out"))
    assert tree(tmp_path / "out") == ["b 3", "e 0", "e/f 3"]


def test_a_mount_of_the_config_file_may_be_a_manifest_by_its_relative_name(
    listed: Path, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(listed.parent)
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "config.toml").write_text(
        f'[defaults]\ncache_dir = "{tmp_path}/cache"\n'
        f'[mounts.set]\nsource = "manifest:{listed.name}"\nmountpoint = "{path}"\n'
    )
    assert main(["mount", "set"]) == 0
    try:
        assert (path / "d/b").read_bytes() == b"one"
        assert main(["status", str(path)]) == 0
        assert main(["remotes", "--check"]) == 0
    finally:
        assert main(["umount", str(path)]) == 0


def test_nothing_can_be_written(mount: Mounted) -> None:
    for write in (
        lambda: (mount.path / "new").write_bytes(b"x"),
        lambda: (mount.path / "a").unlink(),
        lambda: (mount.path / "dir").mkdir(),
    ):
        with pytest.raises(OSError, match="Read-only") as refused:
            write()
        assert refused.value.errno == errno.EROFS


def test_a_file_that_changed_gives_estale_and_a_line_in_the_log_and_never_other_bytes(
    mount: Mounted, s3_server: S3Server
) -> None:
    assert (mount.path / "a").read_bytes() == b"one"
    for key in ("p/a", "p/d/b"):
        s3_server.put("b", key, b"new")
    s3_server.delete("c", "q/x")
    assert (mount.path / "a").read_bytes() == b"one"  # it was here
    for name in ("d/b", "more/x"):
        for _ in range(2):
            with pytest.raises(OSError, match="Stale") as refused:
                (mount.path / name).read_bytes()
            assert refused.value.errno == errno.ESTALE
    said = mount.log.read_text()
    assert said.count("d/b: s3://b/p/d/b is another version by now; the manifest has") == 1
    assert said.count("more/x: s3://c/q/x is gone") == 1
    assert (mount.path / "d/e/f").read_bytes() == b"one"


def test_the_tree_is_there_while_the_remote_is_not_and_comes_back(
    mount: Mounted, s3_server: S3Server
) -> None:
    s3_server.refuse_connections()
    with pytest.raises(OSError, match="Input/output"):
        (mount.path / "d/b").read_bytes()
    assert len(tree(mount.path)) == 9
    s3_server.accept_connections()


def test_another_manifest_of_that_name_is_another_tree_and_keeps_what_is_the_same(
    listed: Path, environment: dict[str, str], tmp_path: Path, s3_server: S3Server
) -> None:
    with mounted(f"manifest:{listed}", tmp_path, environment=environment) as one:
        assert (one.path / "a").read_bytes() == (one.path / "d/b").read_bytes() == b"one"
        number = (one.path / "a").stat().st_ino
    s3_server.put("b", "p/d/b", b"b, again")
    s3_server.put("b", "p/n", b"new")
    assert main(["manifest", str(listed), "s3://b/p"]) == 0
    with mounted(f"manifest:{listed}", tmp_path, environment=environment) as one:
        s3_server.clear_log()
        assert (one.path / "a").read_bytes() == b"one"
        assert (one.path / "a").stat().st_ino == number
        assert s3_server.log() == []
        assert (one.path / "d/b").read_bytes() == b"b, again"
        assert sorted(os.listdir(one.path)) == ["a", "d", "n"]


def test_doctor_tries_what_a_manifest_leads_to(
    listed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], s3_server: S3Server
) -> None:
    main(["doctor", f"manifest:{listed}"])
    said = capfd.readouterr().out
    assert "5 files at 2 locations" in said
    assert "s3://b/p" in said
    assert "s3://c/q" in said
    listed.write_text("{}")
    main(["doctor", f"manifest:{listed}"])
    assert "it is no manifest of mountd" in capfd.readouterr().out


def test_what_is_no_manifest_is_one_line_and_exit_2(
    environment: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "bad.json").write_text('{"mountd_manifest": 1, "files": [{"path": "../x"}]}')
    cache = f"cache_dir={tmp_path / 'cache'}"
    for name in ("bad.json", "none.json"):
        code = main(["mount", f"manifest:{tmp_path / name}", str(tmp_path / "mnt"), "-o", cache])
        said = capfd.readouterr().err
        assert (code, len(said.splitlines())) == (2, 1), said
        assert name in said


def test_names_that_programs_trip_over_are_shown_and_read(
    s3_server: S3Server, environment: dict[str, str], tmp_path: Path
) -> None:
    s3_server.put("b", "k", b"one")
    version = '"f97c5d29941bfb1b2fdab0874906ab82"'
    names = [".mountd", "a\nb", "␛", "n\udcff", "x" * 300, "Ä"]
    files = [ManifestFile(name, 3, 0, version, 0, "k") for name in names]
    location = Location("s3://b", s3_server.endpoint)
    write_manifest(tmp_path / "set.json", make_manifest([location], files))
    with mounted(f"manifest:{tmp_path / 'set.json'}", tmp_path, environment=environment) as one:
        found = os.listdir(one.path)
        assert len(found) == len(names)
        assert {(one.path / name).read_bytes() for name in found} == {b"one"}
