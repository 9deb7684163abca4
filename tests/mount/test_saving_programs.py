"""How programs install, unpack and save: pip, tar, vim, Jupyter, HDF5, torch. Each does on the
mount what it does in a local directory, and after a flush the remote has the same bytes.

Without vim, h5py or torch in the environment the tests that need them are skipped; what these
programs ask of a file system is done by hand then, by the tests beside them.
"""

import base64
import fcntl
import hashlib
import io
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import file_keys
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

needs_vim = pytest.mark.skipif(
    shutil.which("vim") is None, reason="limit: vim is not installed, it was not seen to save"
)
needs_h5py = pytest.mark.skipif(
    find_spec("h5py") is None, reason="limit: h5py is not installed, HDF5 itself was not run"
)
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="limit: torch is not installed, torch.save was not run"
)


@dataclass(frozen=True)
class Lab:
    """An empty bucket, mounted, and a local directory to compare with."""

    mount: Mounted
    server: S3Server
    local: Path

    @property
    def roots(self) -> tuple[Path, Path]:
        return self.local, self.mount.path

    def compare(self) -> None:
        """The mount has what is in the local directory, and the remote has what is on the mount."""
        assert tree(self.mount.path) == tree(self.local)
        self.arrived()

    def arrived(self) -> None:
        self.mount.cli("flush", str(self.mount.path), "--timeout", "60")
        sent = {key: self.server.read("b", key) for key in file_keys(self.server)}
        assert sent == contents(self.mount.path)


@pytest.fixture
def lab(s3_server: S3Server, tmp_path: Path) -> Iterator[Lab]:
    s3_server.make_bucket("b")
    (tmp_path / "local").mkdir()
    with mounted("s3://b", tmp_path, environment=s3_server.environment()) as mount:
        yield Lab(mount, s3_server, tmp_path / "local")


def contents(root: Path) -> dict[str, bytes]:
    """All of it, as the remote is to have it."""
    found: dict[str, bytes] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[f"{name}.rclonelink"] = os.readlink(os.fsencode(path))
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Modes, and what is in it; of bytecode, which has the time of its source in it, the mode."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in root.rglob("*"):
        mode, data = path.lstat().st_mode, b""
        if stat.S_ISLNK(mode):
            data = os.readlink(os.fsencode(path))
        elif stat.S_ISREG(mode) and path.suffix != ".pyc":
            data = path.read_bytes()
        found[str(path.relative_to(root))] = mode, data
    return found


# -- pip


def wheel(folder: Path, version: str, modules: int) -> Path:
    """A package of that many modules, with data and a program."""
    files = {f"parcel/m{i}.py": f"x = {i}\n" for i in range(modules)}
    files["parcel/__init__.py"] = f"version = {version!r}\ndef main():\n    print(version)\n"
    files["parcel/deep/er/data.bin"] = "\0" * 300_000
    info = f"parcel-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: parcel\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "[console_scripts]\nparcel = parcel:main\n"
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{name},sha256={digest.decode()},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(record) + f"{info}/RECORD,,\n"
    path = folder / f"parcel-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_pip_installs_and_upgrades_a_package_in_a_target_on_the_mount(
    lab: Lab, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    run = [sys.executable, "-c", "import parcel, parcel.m7; parcel.main()"]
    site = lab.mount.path / "site"
    environment = os.environ | {"PYTHONPATH": str(site)}
    for version, modules in (("1.0", 20), ("2.0", 10)):
        path = wheel(tmp_path, version, modules)
        command = [*pip, "--no-index", "--upgrade", "--target", str(site), str(path)]
        subprocess.run(command, check=True, timeout=100, cwd=tmp_path)
        said = subprocess.run(run, check=True, stdout=subprocess.PIPE, env=environment)
        assert said.stdout.decode() == f"{version}\n"
        subprocess.run([f"{site}/bin/parcel"], check=True, env=environment)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            assert name.endswith("/RECORD") or (site / name).read_bytes() == archive.read(name)
    assert not list(site.glob("parcel/m1?.py"))
    lab.arrived()


# -- tar


def archive_of(count: int, path: Path) -> list[str]:
    """A source tree in a tar: up to ten deep, links, modes, old times. The hard links in it."""
    chance = random.Random(count)
    noise = chance.randbytes(1 << 16)
    folders, hard = ["src"], []
    with tarfile.open(path, "w") as tar:

        def add(name: str, kind: bytes, mode: int, size: int = 0, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, size, link
            info.mtime = 1_600_000_000 + chance.randrange(10**8)
            tar.addfile(info, io.BytesIO(noise[:size]))

        add("src", tarfile.DIRTYPE, 0o755)
        for i in range(count // 12):
            parent = chance.choice(folders[-20:])
            if parent.count("/") < 10:
                folders.append(f"{parent}/d{i}")
                add(folders[-1], tarfile.DIRTYPE, 0o755)
        for i in range(count):
            mode, size = chance.choice((0o644, 0o600, 0o755, 0o444)), chance.randrange(5000)
            add(f"{chance.choice(folders)}/f{i}", tarfile.REGTYPE, mode, size)
            if i % 100 == 0:
                target = chance.choice(("f1", "../..", "/nowhere", "ünï"))
                add(f"{chance.choice(folders)}/l{i}", tarfile.SYMTYPE, 0o777, link=target)
        add("src/last", tarfile.REGTYPE, 0o644, 100)
        for i in range(3):
            hard.append(f"src/h{i}")
            add(hard[-1], tarfile.LNKTYPE, 0o644, link="src/last")
    return hard


def test_a_deep_tree_is_unpacked_with_its_links_modes_and_times_and_hard_links_are_named(
    lab: Lab, s3_server: S3Server, tmp_path: Path
) -> None:
    archive = tmp_path / "src.tar"
    hard = archive_of(800, archive)
    unpack = ["tar", "-C", str(lab.mount.path), "-xf", str(archive)]
    done = subprocess.run(unpack, stderr=subprocess.PIPE, text=True, timeout=100)
    # A hard link is refused (EPERM); tar names it, goes on with the rest, and ends with 2.
    refused = [line for line in done.stderr.splitlines() if "Cannot hard link" in line]
    assert (done.returncode, len(refused)) == (2, len(hard)), done.stderr
    assert all(name in line for name, line in zip(hard, refused, strict=True))
    members = lab.local / "members"
    members.write_text("".join(f"{name}\n" for name in hard))
    differs = [
        "tar",
        "--exclude-from",
        str(members),
        "-df",
        str(archive),
        "-C",
    ]  # modes, times, bytes
    subprocess.run([*differs, str(lab.mount.path)], check=True, timeout=100)
    lab.arrived()
    assert len(contents(lab.mount.path)) == 800 + 8 + 1
    assert lab.mount.stop() == 0
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    environment = s3_server.environment()
    with mounted("s3://b", fresh, environment=environment, metadata="full") as other:
        subprocess.run([*differs, str(other.path)], check=True, timeout=100)


# -- editors


@needs_vim
def test_vim_saves_in_place_by_renaming_and_with_an_undo_file(lab: Lab) -> None:
    settings = {
        "renames": "backupcopy=no writebackup",
        "copies": "backupcopy=yes writebackup",
        "keeps": "backupcopy=auto backup backupdir=.",
        "undoes": "backupcopy=auto undofile undodir=.",
        "plain": "nowritebackup nobackup",
    }
    for root in lab.roots:
        for name, setting in settings.items():
            path, begin = root / f"{name}.txt", f"set {setting} backupskip= directory=."
            vim(root, path, begin, "call setline(1, ['one', 'two'])", "write")  # a new file
            path.chmod(0o640)
            for edit in ("%s/one/1/", "normal Gothree", "1d"):
                vim(root, path, begin, edit, "write")
        (root / "link").symlink_to("plain.txt")
        vim(root, root / "link", "set backupcopy=auto backupskip=", "normal Golinked", "write")
        vim(root, root / "undoes.txt", "set undofile undodir=.", "undo", "write")
    there = lab.mount.path
    assert (there / "undoes.txt").read_text() == "1\ntwo\nthree\n"
    assert (there / "keeps.txt~").read_text() == "1\ntwo\nthree\n"
    for root in lab.roots:  # times and a salt are in it
        assert (root / ".undoes.txt.un~").stat().st_size > 0
        (root / ".undoes.txt.un~").unlink()
    lab.compare()
    assert (there / "link").is_symlink()


def vim(folder: Path, path: Path, *commands: str) -> None:
    words = [word for command in (*commands, "qall!") for word in ("-c", command)]
    command = ["vim", "-es", "-N", "-u", "NONE", "-i", "NONE", *words, str(path)]
    subprocess.run(command, cwd=folder, check=True, timeout=30, stdin=subprocess.DEVNULL)


def test_a_save_with_the_calls_of_vim_keeps_mode_and_attributes_of_the_file(lab: Lab) -> None:
    for root in lab.roots:
        path, backup = root / "notes", root / "notes~"
        path.write_bytes(b"old\n" * 1000)
        path.chmod(0o640)
        probe = os.open(root / "4913", os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW, 0o640)
        os.fchown(probe, os.getuid(), os.getgid())  # may it make a file like that here?
        os.close(probe)
        (root / "4913").unlink()
        os.setxattr(path, "user.by", b"me")
        path.rename(backup)
        new = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
        os.write(new, b"new\n" * 500)
        os.fsync(new)
        os.fchmod(new, 0o640)
        os.setxattr(new, "user.by", os.getxattr(backup, "user.by"))
        os.close(new)
        path.chmod(0o640)
        assert os.getxattr(path, "user.by") == b"me"
        backup.unlink()
    lab.compare()


def test_a_notebook_is_saved_and_restored_with_the_calls_of_jupyter(lab: Lab) -> None:
    for root in lab.roots:
        path, aside = root / "a.ipynb", root / ".~a.ipynb"
        checkpoints = root / ".ipynb_checkpoints"
        for i in range(4):
            if path.exists():
                assert os.access(path, os.W_OK)
                shutil.copy2(path, aside)
            with path.open("w", encoding="utf-8") as file:
                file.write(f'{{"cells": [{i}]}}\n' * (500 - 100 * i))
                if i != 2:
                    file.flush()
                    os.fsync(file.fileno())
            if i == 2:  # it ends with an error, and what was there comes back
                shutil.move(aside, path)
            else:
                aside.unlink(missing_ok=True)
            checkpoints.mkdir(exist_ok=True)
            shutil.copy2(path, checkpoints / "a-checkpoint.ipynb")
    assert "[3]" in (lab.mount.path / "a.ipynb").read_text()
    lab.compare()


# -- frameworks


def test_a_file_is_written_with_the_calls_of_hdf5(lab: Lab) -> None:
    """A superblock at the front that is written again at the end, holes, cuts, flock."""
    for root in lab.roots:
        file = os.open(root / "x.h5", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(file, b"\x89HDF\r\n\x1a\n" + bytes(88), 0)
        for at in (800, 4096, 1_000_000, 2048, 96):
            os.pwrite(file, bytes([at % 251]) * 700, at)
        os.ftruncate(file, 1_200_000)
        assert os.pread(file, 100, 999_990) == bytes(10) + bytes([1_000_000 % 251]) * 90
        os.pwrite(file, b"\x89HDF\r\n\x1a\n" + b"end".ljust(88), 0)
        os.fsync(file)
        other = os.open(root / "x.h5", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(other)
        with (root / "x.h5").open("r+b") as again:
            again.truncate(1_100_000)
            again.seek(0, os.SEEK_END)
            again.write(b"appended")
    lab.compare()


HDF5 = """
import h5py, sys
path = sys.argv[1]
with h5py.File(path, "w") as file:
    file["a"] = range(10_000)
    how = {"maxshape": (None,), "chunks": (1000,), "dtype": "f4", "compression": "gzip"}
    grown = file.create_dataset("g", (0,), **how)
    for i in range(20):
        grown.resize((i + 1) * 500, axis=0); grown[-500:] = [i] * 500
        file.flush()
with h5py.File(path, "r+") as file:
    del file["a"]
    file["b/c/d"] = [1.5] * 5000
    file["g"][7] = -1
    file.attrs["note"] = "x"
with h5py.File(path + ".swmr", "w", libver="latest") as file:
    file.create_dataset("s", (0,), maxshape=(None,), chunks=(64,), dtype="i8")
    file.swmr_mode = True
    with h5py.File(path + ".swmr", "r", libver="latest", swmr=True) as reader:
        for i in range(5):
            file["s"].resize((64 * (i + 1),)); file["s"][64 * i:] = [i] * 64
            file["s"].flush(); reader["s"].refresh()
            assert reader["s"].shape == (64 * (i + 1),) and reader["s"][-1] == i
with h5py.File(path, "r") as file:
    assert file["g"].shape == (10_000,) and file["g"][7] == -1 and file["g"][-1] == 19
    assert sum(file["b/c/d"]) == 7500 and file.attrs["note"] == "x" and "a" not in file
"""


@needs_h5py
def test_hdf5_files_are_made_changed_and_followed(lab: Lab) -> None:
    for root in lab.roots:
        command = [sys.executable, "-c", HDF5, f"{root}/x.h5"]
        subprocess.run(command, check=True, timeout=60)
    lab.arrived()


def test_an_archive_is_written_with_seeks_back_into_its_headers(lab: Lab) -> None:
    """A checkpoint is a zip; each part's size and sum are written into its header afterwards."""
    for root in lab.roots:
        for mode in ("w", "a"):
            with zipfile.ZipFile(root / "model.pt", mode) as archive:
                for i in range(6):
                    name = zipfile.ZipInfo(f"model/{mode}/{i}", (2020, 1, 1, 0, 0, 0))
                    with archive.open(name, "w") as part:
                        for _ in range(8):
                            part.write(bytes([i]) * 100_001)
        assert zipfile.ZipFile(root / "model.pt").testzip() is None
    lab.compare()


TORCH = """
import sys, torch
path = sys.argv[1]
state = {"w": torch.arange(300_000), "b": torch.ones(7), "step": 3}
for name in (path, path + ".old"):
    torch.save(state, name, _use_new_zipfile_serialization=name == path)
    found = torch.load(name, weights_only=True)
    assert found["step"] == 3 and torch.equal(found["w"], state["w"])
assert torch.equal(torch.load(path, mmap=True, weights_only=True)["w"], state["w"])
"""


@needs_torch
def test_what_torch_saves_is_loaded_again(lab: Lab) -> None:
    command = [sys.executable, "-c", TORCH, f"{lab.mount.path}/model.pt"]
    subprocess.run(command, check=True, timeout=100)
    lab.arrived()
