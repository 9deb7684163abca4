"""The folder of one identity: its name, its lock, and what it remembers."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from mountd.cache_folder import (
    CacheFolder,
    check_free,
    holder_pid,
    identity_name,
    idle_folders,
    is_volatile,
    prepare_folder,
)
from mountd.config import Settings
from mountd.config.source import Source, parse_source
from mountd.errors import MountPointError, StartError
from mountd.mount_table import parse_mountinfo
from mountd.remotes.aws_profile import configured_endpoint
from tests.conftest import ExpectedLog

MOUNTPOINT = Path("/some/where")
LAB = parse_source("s3://lab/data")


def settings(cache_dir: Path, cache_size: int | None = None, **credentials: str) -> Settings:
    return Settings(cache_dir, cache_size, credentials=MappingProxyType(credentials))


def name(source: str, environ: dict[str, str] | None = None, **credentials: str) -> str:
    return identity_name(
        parse_source(source), settings(Path("/c"), None, **credentials), environ or {}
    )


def test_a_name_is_readable_and_the_same_every_time() -> None:
    assert name("s3://lab/data").startswith("s3-lab-data-")
    assert name("s3://lab/data") == name("s3://lab/data/")


def test_what_makes_another_tree_makes_another_folder() -> None:
    names = [
        name("s3://lab/data"),
        name("s3://lab/dat/a"),
        name("s3://lab/dat-a"),
        name("gs://lab/data"),
        name("s3://lab/data", {"AWS_ENDPOINT_URL": "http://other"}),
        name("webdav://h/x", user="ann"),
        name("webdav://h/x", user="bob"),
        name("az://box", account_name="one"),
        name("az://box", {"AZURE_STORAGE_ACCOUNT_NAME": "two"}),
        name("az://box", connection_string="EndpointsProtocol=x;AccountName=three;AccountKey=k"),
        name("az://box", connection_string="AccountName=three;BlobEndpoint=http://h:1/three"),
        name("az://box", {"AZURE_STORAGE_ACCOUNT": "two", "AZURE_STORAGE_ENDPOINT": "http://h"}),
        name("s3://", access_key_id="AKONE"),
        name("s3://", access_key_id="AKTWO"),
    ]
    assert len(set(names)) == len(names)


def test_credentials_that_rotate_keep_their_folder() -> None:
    assert name("s3://lab", access_key_id="ASIAONE", session_token="x") == name(
        "s3://lab", access_key_id="ASIATWO", session_token="y"
    )
    assert name("s3://", access_key_id="ASIAONE", session_token="x") == name(
        "s3://", access_key_id="ASIATWO", session_token="y"
    )
    assert name("webdav://h/x", user="ann", password="old") == name(
        "webdav://H/x", user="ann", password="new"
    )


def test_the_endpoint_of_an_option_and_of_the_environment_are_one() -> None:
    by_option = identity_name(LAB, replace(settings(Path("/c")), endpoint="http://h:9000"), {})
    by_environment = identity_name(
        LAB, settings(Path("/c")), {"AWS_ENDPOINT_URL": "http://H:9000/"}
    )
    assert by_option == by_environment


AWS_CONFIG = """
[default]
endpoint_url = https://default.example
[profile lab]
services = inner
endpoint_url = https://wrong.example
[profile "two words"]
endpoint_url = https://words.example
[services inner]
s3 =
  endpoint_url = https://s3.inner.example
dynamodb =
  endpoint_url = https://db.inner.example
"""


@pytest.mark.parametrize(
    ("profile", "endpoint"),
    [
        ("", "https://default.example"),
        ("lab", "https://s3.inner.example"),
        ("two words", "https://words.example"),
        ("nosuch", ""),
    ],
)
def test_the_endpoint_of_an_aws_profile_is_found(
    tmp_path: Path, profile: str, endpoint: str
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(AWS_CONFIG)
    environ = {"HOME": str(tmp_path)}
    assert configured_endpoint(profile, environ) == endpoint
    (tmp_path / ".aws/config").write_text("no section = at all")
    assert configured_endpoint(profile, environ) == ""


def test_an_endpoint_of_the_aws_config_makes_another_folder(tmp_path: Path) -> None:
    config = tmp_path / "config"
    environ = {"AWS_CONFIG_FILE": str(config), "HOME": str(tmp_path)}
    without = name("s3://lab", environ)
    keys = {"access_key_id": "AKONE", "secret_access_key": "s"}
    without_but_keys = name("s3://lab", environ, **keys)
    config.write_text(AWS_CONFIG)
    assert name("s3://lab", environ) != without
    assert name("s3://lab", environ) == name(
        "s3://lab", {**environ, "AWS_ENDPOINT_URL": "https://default.example/"}
    )
    # With keys of its own the store reads no config file, so it asks the same server as before.
    assert name("s3://lab", environ, **keys) == without_but_keys
    assert name("gs://lab", environ) == name("gs://lab")


def test_a_claimed_folder_is_private_and_says_whose_it_is(tmp_path: Path) -> None:
    with CacheFolder.claim(LAB, settings(tmp_path / "cache"), MOUNTPOINT) as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert (folder.path / "source").read_text() == "s3://lab/data\n"
        assert holder_pid(folder.path) == os.getpid()
        assert list(idle_folders(tmp_path / "cache")) == []
    assert holder_pid(folder.path) is None
    assert [one.source for one in idle_folders(tmp_path / "cache")] == ["s3://lab/data"]


def test_a_second_daemon_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    # flock is per open file, so a second claim in this very process counts as another daemon.
    with CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT) as folder:
        with pytest.raises(StartError, match=f"already served by pid {os.getpid()}") as caught:
            CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT)
        assert caught.value.exit_code == 1
        with pytest.raises(StartError, match=f"pid {os.getpid()}"):
            check_free(folder.path, LAB)
        other = parse_source("s3://lab/other")
        CacheFolder.claim(other, settings(tmp_path), MOUNTPOINT).release()
    CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT).release()


def test_a_killed_daemon_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from mountd.cache_folder import CacheFolder; from mountd.config import Settings\n"
        "from mountd.config.source import parse_source\n"
        "folder = CacheFolder.claim(parse_source('s3://lab/data'), Settings(Path(sys.argv[1])), "
        "Path('/m'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=30)
    assert done.returncode == -9
    CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT).release()


def test_the_default_size_is_half_of_what_was_free_and_stays(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    with CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT) as folder:
        assert folder.limit_bytes == pytest.approx(free / 2, rel=0.2)
    (folder.path / "cache_size").write_text("123456789\n")
    with CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT) as folder:
        assert folder.limit_bytes == 123456789
    with CacheFolder.claim(LAB, settings(tmp_path, 5 << 20), MOUNTPOINT) as folder:
        assert folder.limit_bytes == 5 << 20
    with CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT) as folder:
        assert folder.limit_bytes == 123456789


def test_a_spoiled_size_is_chosen_anew(tmp_path: Path) -> None:
    CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT).release()
    folder = prepare_folder(LAB, settings(tmp_path), MOUNTPOINT)
    (folder / "cache_size").write_text("\0\0\0")
    with CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT) as claimed:
        assert claimed.limit_bytes > 1 << 20
        assert int((folder / "cache_size").read_text()) == claimed.limit_bytes


@pytest.mark.parametrize("inside", ["m", "m/cache", "link"])
def test_a_cache_inside_the_mount_point_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "m")
    with pytest.raises(MountPointError, match="lies inside the mount point"):
        CacheFolder.claim(LAB, settings(tmp_path / inside), tmp_path / "m")
    CacheFolder.claim(LAB, settings(tmp_path / "mm"), tmp_path / "m").release()


@pytest.mark.parametrize("cache_dir", ["m/cache", "link/cache"])
def test_a_cache_inside_another_mount_of_ours_is_refused(tmp_path: Path, cache_dir: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "m")
    line = f"9 1 0:9 /sub {tmp_path}/m rw - fuse.mountd s3://b rw,user_id=0"
    table = parse_mountinfo(line.encode())
    with pytest.raises(MountPointError, match=f"the mountd mount at {tmp_path}/m .s3://b.; give"):
        prepare_folder(LAB, settings(tmp_path / cache_dir), MOUNTPOINT, mounts=lambda: table)
    assert not (tmp_path / "m/cache").exists()
    disk = parse_mountinfo(f"{line}\n10 9 0:10 / {tmp_path}/m/disk rw - ext4 /dev/d rw".encode())
    on_disk = settings(tmp_path / "m/disk/cache")
    assert prepare_folder(LAB, on_disk, MOUNTPOINT, mounts=lambda: disk).is_dir()


def test_a_cache_dir_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache_dir in (tmp_path / "file", tmp_path / "file/below", Path("/proc/cache")):
        with pytest.raises(StartError, match="give another with -o cache_dir=DIR") as caught:
            CacheFolder.claim(LAB, settings(cache_dir), MOUNTPOINT)
        assert str(cache_dir) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = prepare_folder(LAB, settings(tmp_path), MOUNTPOINT)
    os.chown(folder, 65534, 65534)
    with pytest.raises(StartError, match="belongs to user 65534"):
        CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT)


def test_a_folder_that_became_open_to_others_is_closed_again(tmp_path: Path) -> None:
    folder = prepare_folder(LAB, settings(tmp_path), MOUNTPOINT)
    folder.chmod(0o755)
    prepare_folder(LAB, settings(tmp_path), MOUNTPOINT)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_memory_is_volatile_and_a_disk_is_not() -> None:
    assert is_volatile(Path("/dev/shm"))
    assert not is_volatile(Path("/proc"))


def test_a_cache_in_memory_is_warned_about_once(
    caplog: pytest.LogCaptureFixture, expected_log: ExpectedLog
) -> None:
    expected_log("does not survive a restart")
    cache_dir = Path(f"/dev/shm/mountd-test-{os.getpid()}")
    try:
        with CacheFolder.claim(
            Source("s3", "lab", "", "s3://lab"), settings(cache_dir), MOUNTPOINT
        ):
            assert caplog.text.count("does not survive a restart") == 1
    finally:
        subprocess.run(["rm", "-r", "--", str(cache_dir)], check=True)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_could_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = prepare_folder(LAB, settings(tmp_path), MOUNTPOINT)
    folder.chmod(mode)
    with pytest.raises(StartError, match="could be written to by others"):
        CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT)


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = prepare_folder(LAB, settings(tmp_path), MOUNTPOINT)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="is no directory"):
        CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT)


def test_a_place_where_anybody_may_rename_the_folder_is_refused_and_one_like_tmp_is_not(
    tmp_path: Path,
) -> None:
    place = tmp_path / "place"
    (place / "cache").mkdir(parents=True)
    place.chmod(0o777)
    for cache_dir in (place, place / "cache"):
        with pytest.raises(StartError, match=r"everybody may rename what is in .*chmod \+t"):
            CacheFolder.claim(LAB, settings(cache_dir), MOUNTPOINT)
    place.chmod(0o1777)
    CacheFolder.claim(LAB, settings(place / "cache"), MOUNTPOINT).release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_dir_that_another_user_made_beforehand_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(StartError, match="belongs to user 65534, who could replace"):
        CacheFolder.claim(LAB, settings(tmp_path), MOUNTPOINT)
