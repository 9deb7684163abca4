"""`mountd.mount`, `copy`, `warm`, `pin` and `flush` as Python programs use them."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mountd
from tests.mount.mounting import is_mounted
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]


@pytest.fixture
def folder(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's home with an empty folder `mnt`, credentials in the environment, and buckets."""
    config = tmp_path / "config.toml"
    config.write_text("")
    environment = s3_server.environment()
    environment["MOUNTD_ENDPOINT"] = environment.pop("AWS_ENDPOINT_URL")
    environment["MOUNTD_CONFIG"] = str(config)
    environment["MOUNTD_CACHE_DIR"] = str(tmp_path / "cache")
    environment["MOUNTD_CACHE_SIZE"] = "256MiB"
    environment["MOUNTD_RUNTIME_DIR"] = str(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3_server.put_many("b", ["p/d/a", "p/d/e/b"])
    s3_server.make_bucket("c")
    (tmp_path / "mnt").mkdir()
    (tmp_path / "other").mkdir()
    yield tmp_path
    for name in ("mnt", "other"):
        if is_mounted(tmp_path / name):
            mountd.Mount("", tmp_path / name).umount(abandon=True)
        if is_mounted(tmp_path / name):
            subprocess.run(["fusermount3", "-uz", str(tmp_path / name)], check=False, timeout=10)


def test_leaving_the_block_sends_what_was_written_and_unmounts(
    folder: Path, s3_server: S3Server
) -> None:
    with mountd.mount("s3://b/p", folder / "mnt", write_back_s=3600) as data:
        assert (data / "d/a").read_bytes() == b"x"
        assert sorted(os.listdir(data)) == ["d"]
        (data.path / "new").write_bytes(b"checkpoint")
        assert data.status()["source"] == "s3://b/p"
    assert not is_mounted(folder / "mnt")
    assert s3_server.read("b", "p/new") == b"checkpoint"


def test_leaving_the_block_on_an_exception_sends_all_the_same(
    folder: Path, s3_server: S3Server
) -> None:
    def training() -> None:
        with mountd.mount("s3://b/p", folder / "mnt", write_back_s=3600) as data:
            (data / "new").write_bytes(b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        training()
    assert not is_mounted(folder / "mnt")
    assert s3_server.read("b", "p/new") == b"1"
    assert not hasattr(raised.value, "__notes__")


def test_what_is_not_sent_in_time_is_an_exception_and_is_sent_by_the_next_mount(
    folder: Path, s3_server: S3Server
) -> None:
    data = mountd.mount("s3://b/p", folder / "mnt", write_back_s=3600)
    s3_server.faults({"op": "PutObject", "reset": True})
    (data / "new").write_bytes(b"1")
    with pytest.raises(mountd.NotAllSent, match="not on the remote yet: 1 file"):
        data.umount(timeout_s=0)
    assert not is_mounted(folder / "mnt")
    data.umount()  # a second time does nothing
    s3_server.clear_faults()
    with mountd.mount("s3://b/p", folder / "mnt") as data:
        data.flush(timeout_s=60)
        assert s3_server.read("b", "p/new") == b"1"


def test_an_exception_keeps_its_type_and_has_a_note_where_unmounting_failed(folder: Path) -> None:
    data = mountd.mount("s3://b/p", folder / "mnt")

    def training() -> None:
        with data:
            raise ZeroDivisionError

    file = (data / "d/a").open("rb")
    with pytest.raises(ZeroDivisionError) as raised:
        training()
    assert "is in use by" in raised.value.__notes__[0]
    assert str(os.getpid()) in raised.value.__notes__[0]
    file.close()
    data.umount()
    assert not is_mounted(folder / "mnt")


def test_two_mounts_at_once_and_a_third_at_the_same_path_is_refused(folder: Path) -> None:
    with (
        mountd.mount("s3://b/p", folder / "mnt") as one,
        mountd.mount("s3://c", folder / "other") as other,
    ):
        (other / "f").write_bytes((one / "d/a").read_bytes())
        with pytest.raises(mountd.MountPointError, match=f"{folder}/mnt is already mounted by pid"):
            mountd.mount("s3://c/else", folder / "mnt")
        assert (one / "d/a").read_bytes() == b"x"


def test_in_a_running_event_loop_and_in_a_thread(folder: Path, s3_server: S3Server) -> None:
    async def cell() -> bytes:
        with mountd.mount("s3://b/p", folder / "mnt") as data:
            return (data / "d/a").read_bytes()

    def work() -> None:
        with mountd.mount("s3://c", folder / "other") as data:
            (data / "f").write_bytes(b"1")

    assert asyncio.run(cell()) == b"x"
    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
    assert s3_server.read("c", "f") == b"1"


def test_every_end_of_a_start_has_its_type(
    folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(mountd.MountPointError, match="gone"):
        mountd.mount("s3://b/p", folder / "gone")
    with pytest.raises(mountd.UsageError, match="cache_size"):
        mountd.mount("s3://b/p", folder / "mnt", cache_size="much")
    with pytest.raises(mountd.UnreachableError, match="nowhere"):
        mountd.mount("s3://nowhere", folder / "mnt")
    with pytest.raises(mountd.CredentialsError):
        mountd.mount("s3://b/p", folder / "mnt", secret_access_key="wrong", access_key_id="AK")
    assert not is_mounted(folder / "mnt")


def test_a_secret_reaches_the_daemon_and_no_command_line(
    folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with mountd.mount(
        "s3://b/p",
        folder / "mnt",
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    ) as data:
        assert (data / "d/a").read_bytes() == b"x"
        words = Path(f"/proc/{data.status()['pid']}/cmdline").read_text()
        assert "access_key_id" in words
        assert s3_server.secret_key not in words


def test_copies_up_and_down_and_what_failed_by_name(folder: Path, s3_server: S3Server) -> None:
    local = folder / "local"
    local.mkdir()
    for name in ("a", "b"):
        (local / name).write_bytes(b"12")
    done = mountd.copy(local, "s3://c/set", verify=True)
    assert (done.files, done.bytes) == (2, 4)
    (folder / "down/b").mkdir(parents=True)
    with pytest.raises(mountd.CopyFailed) as raised:
        mountd.copy("s3://c/set", folder / "down")
    assert list(raised.value.failures) == ["b"]
    assert raised.value.summary.files == 1
    assert "1 file not copied: b: " in str(raised.value)


def test_warm_counts_and_pin_keeps(folder: Path, s3_server: S3Server) -> None:
    with mountd.mount("s3://b/p", folder / "mnt") as data:
        warmed = mountd.warm(data / "d")
        assert (warmed.files, warmed.bytes, warmed.fetched_files) == (2, 2, 2)
        assert mountd.warm([data / "d/a", data / "d/e"]).fetched_files == 0
        mountd.pin(data / "d")
        assert data.status()["cache"]["pinned_bytes"] > 0
        mountd.unpin(data / "d")
        with pytest.raises(mountd.MountdError):
            mountd.unpin(data / "d")


DOCUMENT = Path(__file__).parents[2] / "docs/python.md"


def test_the_programs_of_the_document_run_as_they_stand_there(
    folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/storage` and `/data` are ours; the buckets are on our server."""
    s3_server.put_many("lab", ["images/train/a.jpg", "images/val/b.jpg"])
    s3_server.make_bucket("results")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        text = block.replace('"/storage', f'"{folder}/mnt').replace('"/data', f'"{folder}/data')
        namespace: dict[str, object] = {}
        if "await " in text:
            lines = "".join(f"    {line}\n" for line in text.splitlines())
            exec(compile(f"async def cell():\n{lines}", "python.md", "exec"), namespace)
            cell = namespace["cell"]
            assert callable(cell)
            asyncio.run(cell())
        else:
            exec(compile(text, "python.md", "exec"), namespace)
        assert not is_mounted(folder / "mnt"), text
    assert s3_server.read("results", "run-1/model.pt") == b"weights"
