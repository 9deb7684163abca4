"""How a mount ends whose daemon has just died, or dies while it ends: through the kernel.

Programs run in processes of their own, with a timeout: a mount that nobody answers for holds them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.mounting import is_mounted, mounted
from tests.mount.surviving import TIMEOUT_S, children, in_background, in_fusectl, is_alive, until
from tests.mount.test_surviving import (
    WRITE_AND_HOLD,
    check_remote,
    ends,
    filled,
    python,
    under_load,
)

pytestmark = pytest.mark.fuse

# In the place of Python's own: a daemon that goes on stays there as long as a file is there.
WAITS_AT_ITS_START = """
import os, sys, time
if "MOUNTD_KEPT_FDS" in os.environ and "mount" in sys.orig_argv:
    open({begun!r}, "w").close()
    while os.path.exists({waits!r}):
        time.sleep(0.01)
"""


def with_site(folder: Path, code: str) -> dict[str, str]:
    """The environment in which Python begins with that code."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("both", [False, True])
def test_a_word_to_end_while_a_successor_starts_drains_and_unmounts(
    tmp_path: Path, both: bool
) -> None:
    """To the keeper, or to it and to the successor, as at the end of a session."""
    (tmp_path / "data").mkdir()
    begun, waits = tmp_path / "begun", tmp_path / "waits"
    waits.touch()
    code = WAITS_AT_ITS_START.format(begun=str(begun), waits=str(waits))
    with in_background(f"file://{tmp_path / 'data'}", tmp_path, with_site(tmp_path, code)) as mount:
        writing = python(WRITE_AND_HOLD.format(str(mount.path / "file")))
        assert writing.stdout is not None
        writing.stdout.readline()
        os.kill(mount.pid, signal.SIGKILL)
        until(begun.exists)
        [new] = children(mount.keeper)
        for pid in (mount.keeper, new) if both else (mount.keeper,):
            os.kill(pid, signal.SIGTERM)
        waits.unlink()
        until(lambda: not is_alive(mount.keeper) and not is_alive(new))
        assert ends(writing) == 0
        assert not is_mounted(mount.path)
        assert (tmp_path / "data" / "file").stat().st_size == 16 << 20
        assert "ending at once" not in mount.log()


def test_a_word_to_end_while_new_code_starts_drains_and_unmounts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    begun, waits = tmp_path / "begun", tmp_path / "waits"
    waits.touch()
    code = WAITS_AT_ITS_START.format(begun=str(begun), waits=str(waits))
    environment = with_site(tmp_path, code)
    with mounted(f"file://{tmp_path / 'data'}", tmp_path, environment=environment) as mount:
        writing = python(WRITE_AND_HOLD.format(str(mount.path / "file")))
        assert writing.stdout is not None
        writing.stdout.readline()
        command = [sys.executable, "-m", "mountd", "upgrade", str(mount.path)]
        with subprocess.Popen(command, env=mount.environment, stderr=subprocess.DEVNULL):
            until(begun.exists)
            mount.process.send_signal(signal.SIGTERM)
            waits.unlink()
            assert mount.process.wait(TIMEOUT_S) == 0
        assert ends(writing) == 0
        assert not is_mounted(mount.path)
        assert (tmp_path / "data" / "file").stat().st_size == 16 << 20


def test_an_upgrade_while_a_successor_starts_waits_for_it_and_upgrades_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    begun, waits = tmp_path / "begun", tmp_path / "waits"
    waits.touch()
    code = WAITS_AT_ITS_START.format(begun=str(begun), waits=str(waits))
    with in_background(f"file://{tmp_path / 'data'}", tmp_path, with_site(tmp_path, code)) as mount:
        os.kill(mount.pid, signal.SIGKILL)
        until(begun.exists)
        command = [sys.executable, "-m", "mountd", "upgrade", str(mount.path)]
        with subprocess.Popen(command, env=mount.environment) as upgrading:
            until(lambda: mount.waiting() > 0)  # it has found nobody there
            waits.unlink()
            assert upgrading.wait(2 * TIMEOUT_S) == 0
        assert mount.log().count(" serves ") == 3


def test_umount_while_a_successor_starts_waits_for_it_and_for_its_queue(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    begun, waits = tmp_path / "begun", tmp_path / "waits"
    waits.touch()
    code = WAITS_AT_ITS_START.format(begun=str(begun), waits=str(waits))
    site, settings = with_site(tmp_path, code), {"write_back_s": 60}
    with in_background(f"file://{tmp_path / 'data'}", tmp_path, site, **settings) as mount:
        (mount.path / "file").write_bytes(b"bytes")
        os.kill(mount.pid, signal.SIGKILL)
        until(begun.exists)
        command = [sys.executable, "-m", "mountd", "umount", str(mount.path)]
        with subprocess.Popen(command, env=mount.environment) as unmounting:
            until(lambda: mount.waiting() > 0)
            waits.unlink()
            assert unmounting.wait(2 * TIMEOUT_S) == 0
        assert (tmp_path / "data" / "file").read_bytes() == b"bytes"


# Somewhere in the daemon's loop an exception that nobody foresaw, once for each time the file is
# made.
A_DEFECT = """
import os, sys, threading, time
def happens():
    while not os.path.exists({path!r}):
        time.sleep(0.02)
    os.unlink({path!r})
    from mountd.kept.store import Keeper, Store
    for kind in Keeper, Store:
        def settle(self, kind=kind, before=kind.settle):
            kind.settle = before
            1 // 0
        kind.settle = settle
if "--foreground" in sys.orig_argv:
    threading.Thread(target=happens, daemon=True).start()
"""


def test_a_defect_that_ends_the_daemon_is_a_crash_that_another_one_goes_on_after(
    tmp_path: Path,
) -> None:
    data = filled(tmp_path)
    defect = tmp_path / "defect"
    site = with_site(tmp_path, A_DEFECT.format(path=str(defect)))
    with in_background(f"file://{data}", tmp_path, site) as mount:
        first, keeper = mount.pid, mount.keeper

        def crashes() -> None:
            for _ in range(2):
                mount.after(defect.touch)

        told = under_load(mount, tmp_path / "stop", crashes)
        assert mount.log().count("ZeroDivisionError") >= 2
        assert mount.log().count("Traceback") == 2
        assert mount.look() != first
        assert mount.keeper == keeper
        assert mount.cli("umount", str(mount.path)).returncode == 0
        until(lambda: not is_alive(keeper))
    check_remote(data, told)


def test_a_defect_of_a_daemon_that_nobody_goes_on_for_leaves_a_dead_mount_and_no_empty_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    defect = tmp_path / "defect"
    environment = with_site(tmp_path, A_DEFECT.format(path=str(defect)))
    with mounted(f"file://{tmp_path / 'data'}", tmp_path, environment=environment) as mount:
        defect.touch()
        assert mount.process.wait(TIMEOUT_S) == 1
        assert ends(python(f"import os; os.listdir({str(mount.path)!r})")) != 0
        assert is_mounted(mount.path)
    with mounted(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        assert os.listdir(mount.path) == []


def test_a_mount_whose_connection_was_aborted_while_no_daemon_was_there_is_mounted_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"bytes")
    with in_background(f"file://{tmp_path / 'data'}", tmp_path) as mount:
        os.kill(mount.pid, signal.SIGSTOP)
        in_fusectl(f"echo 1 > {mount.device}/abort")
        mount.kill()
        assert "it is mounted again" in mount.log()
        assert (mount.path / "file").read_bytes() == b"bytes"
        mount.kill()
        assert (mount.path / "file").read_bytes() == b"bytes"


def test_mount_and_an_impatient_umount_while_a_successor_starts_are_refused_and_open_files_stay(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    begun, waits = tmp_path / "begun", tmp_path / "waits"
    waits.touch()
    code = WAITS_AT_ITS_START.format(begun=str(begun), waits=str(waits))
    source, site = f"file://{tmp_path / 'data'}", with_site(tmp_path, code)
    with in_background(source, tmp_path, site) as mount:
        writing = python(WRITE_AND_HOLD.format(str(mount.path / "file")))
        assert writing.stdout is not None
        writing.stdout.readline()
        os.kill(mount.pid, signal.SIGKILL)
        until(begun.exists)
        refused = mount.cli("mount", source, str(mount.path), "-o", f"cache_dir={mount.cache}")
        kept = mount.cli("umount", "--timeout", "0", str(mount.path))
        waits.unlink()
        assert ends(writing) == 0
        assert kept.returncode == 1
        assert "nothing was unmounted" in kept.stderr
        assert refused.returncode == 5
        assert "waits for its next daemon" in refused.stderr


def test_an_upgrade_to_a_broken_config_is_refused_and_the_daemon_of_before_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"bytes")
    config = tmp_path / "config.toml"
    config.write_text("")
    environment = {"MOUNTD_CONFIG": str(config)}
    with in_background(f"file://{tmp_path / 'data'}", tmp_path, environment) as mount:
        with open(mount.path / "file", "rb") as file:
            config.write_text("[mounts.x]\nsauce = 1\n")
            done = mount.cli("upgrade", str(mount.path))
            assert done.returncode == 1
            assert "not upgraded" in done.stderr
            assert "unknown key 'sauce'" in done.stderr
            assert file.read() == b"bytes"
        assert mount.status()["pid"] == mount.pid
        config.write_text("")
        assert mount.cli("upgrade", str(mount.path)).returncode == 0


def test_a_sidecar_whose_command_line_is_not_that_of_a_mount_is_upgraded(tmp_path: Path) -> None:
    for name in ("data", "mnt", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    log = tmp_path / "log"
    environment = os.environ | {
        "MOUNTD_SOURCE": f"file://{tmp_path / 'data'}",
        "MOUNTD_MOUNTPOINT": str(tmp_path / "mnt"),
        "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
        "MOUNTD_CACHE_SIZE": "256MiB",
        "MOUNTD_RUNTIME_DIR": str(tmp_path / "run"),
        "MOUNTD_ALLOW_OTHER": "false",
    }
    command = [sys.executable, "-m", "mountd"]
    with (
        log.open("wb") as said,
        subprocess.Popen([*command, "sidecar"], stderr=said, env=environment) as sidecar,
    ):
        try:
            until(lambda: b" serves " in log.read_bytes())
            upgrade = [*command, "upgrade", str(tmp_path / "mnt")]
            assert subprocess.run(upgrade, env=environment, timeout=60, check=False).returncode == 0
            assert log.read_bytes().count(b" serves ") == 2
            sidecar.terminate()
            assert sidecar.wait(TIMEOUT_S) == 0
        finally:
            sidecar.kill()
