"""Remotes of rclone, as rclone itself writes them down, under a path."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

RCLONE = str(Path(sys.executable).parent / "rclone")


def rclone(*arguments: str, conf: Path | str) -> str:
    return subprocess.run(
        [RCLONE, "--config", str(conf), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.strip()


def write_and_send(mount: Mounted, name: str, data: bytes) -> None:
    (mount.path / name).write_bytes(data)
    mount.cli("flush", str(mount.path), "--timeout", "25")


def cache_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir())


def test_a_nextcloud_that_rclone_config_made_shares_its_cache_with_its_own_url(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    conf = tmp_path / "rclone.conf"
    user, password = nextcloud_server.user, nextcloud_server.password
    url = f"{nextcloud_server.url}/remote.php/dav/files/{user}"
    settings = (f"url={url}", "vendor=nextcloud", f"user={user}", f"pass={password}")
    rclone("config", "create", "cloud", "webdav", *settings, conf=conf)
    nextcloud_server.mkdir("d")
    nextcloud_server.put("d/old", b"1")
    environment = {"RCLONE_CONFIG": str(conf)}
    with mounted("rclone:cloud:d", tmp_path, environment=environment) as mount:
        assert (mount.path / "old").read_bytes() == b"1"
        write_and_send(mount, "new", b"2")
        assert mount.status()["source"] == "rclone:cloud:d"
        assert password not in mount.log.read_text() + mount.cli("status", "--json")
        command = Path(f"/proc/{mount.process.pid}/cmdline").read_bytes()
        assert password.encode() not in command
    assert nextcloud_server.read("d/new") == b"2"
    first = cache_folders(tmp_path)
    host = nextcloud_server.url.partition("://")[2]
    own = {"MOUNTD_PASSWORD": password}
    text, endpoint = f"nextcloud://{user}@{host}/d", nextcloud_server.url
    with mounted(text, tmp_path, environment=own, endpoint=endpoint) as mount:
        assert (mount.path / "new").read_bytes() == b"2"
    assert cache_folders(tmp_path) == first


def test_variables_of_an_rclone_deployment_are_all_that_a_mount_needs(
    nextcloud_server: NextcloudServer, tmp_path: Path
) -> None:
    environment = {
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": f"{nextcloud_server.url}/remote.php/webdav/",
        "RCLONE_CONFIG_RSHARE_VENDOR": "nextcloud",
        "RCLONE_CONFIG_RSHARE_USER": nextcloud_server.user,
        "RCLONE_CONFIG_RSHARE_PASS": rclone("obscure", nextcloud_server.password, conf="/dev/null"),
    }
    with mounted("rclone:rshare:", tmp_path, environment=environment) as mount:
        write_and_send(mount, "f", b"data")
        assert "rclone:rshare:" in mount.cli("remotes", "--check")
    assert nextcloud_server.read("f") == b"data"


def test_an_s3_that_rclone_config_made(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.seed("b", keys=["p/seen"], size=10)
    conf = tmp_path / "rclone.conf"
    given = s3_server.environment()
    settings = (
        "provider=Minio",
        f"endpoint={s3_server.endpoint}",
        f"access_key_id={given['AWS_ACCESS_KEY_ID']}",
        f"secret_access_key={given['AWS_SECRET_ACCESS_KEY']}",
    )
    rclone("config", "create", "lab", "s3", *settings, conf=conf)
    environment = {"RCLONE_CONFIG": str(conf)}
    with mounted("rclone:lab:b/p", tmp_path, environment=environment) as mount:
        assert [path.name for path in mount.path.iterdir()] == ["seen"]
        write_and_send(mount, "new", b"2")
        mount.cli("copy", str(mount.path), str(tmp_path / "copied"))
    assert (tmp_path / "copied/new").read_bytes() == b"2"
    assert rclone("cat", "lab:b/p/new", conf=conf) == "2"


def test_a_copy_out_of_a_mount_is_of_what_is_mounted_whatever_the_name_means_to_who_copies(
    tmp_path: Path,
) -> None:
    conf, other = tmp_path / "rclone.conf", tmp_path / "other.conf"
    for name, file in (("mine", conf), ("yours", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
        file.write_text(f"[x]\ntype = alias\nremote = {tmp_path / name}\n")
    with mounted("rclone:x:", tmp_path, environment={"RCLONE_CONFIG": str(conf)}) as mount:
        for number, file in enumerate((conf, other, tmp_path / "none.conf")):
            mount.environment["RCLONE_CONFIG"] = str(file)
            mount.cli("copy", str(mount.path), str(tmp_path / f"copied{number}"))
            assert (tmp_path / f"copied{number}" / "f").read_text() == "mine"
