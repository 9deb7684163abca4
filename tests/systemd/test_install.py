"""scripts/install-systemd, and what can be said of the units without a running systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.systemd.conftest import INSTALL
from tests.systemd.machine import BIN, ROOT, Machine

SCRIPT = ROOT / "scripts/install-systemd"
UNITS = "usr/local/lib/systemd/system"
FILES = {
    f"{UNITS}/mountd@.service": "systemd/mountd@.service",
    f"{UNITS}/mountd.target": "systemd/mountd.target",
    "usr/local/lib/sysusers.d/mountd.conf": "systemd/mountd.sysusers.conf",
    "usr/local/lib/tmpfiles.d/mountd.conf": "systemd/mountd.tmpfiles.conf",
    "usr/local/lib/mountd/start": "systemd/start",
}
LINKS = {
    "usr/local/bin/mountd": "mountd",
    "usr/sbin/mount.mountd": "mount.mountd",
    "usr/sbin/mount.fuse.mountd": "mount.mountd",
    "usr/sbin/umount.mountd": "umount.mountd",
    "usr/sbin/umount.fuse.mountd": "umount.mountd",
}


def install(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_below_a_destdir_it_puts_every_file_twice_the_same_and_takes_all_away_again(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        done = install("--destdir", tmp_path, "--mountd", "/srv/x/bin/mountd")
        assert (done.returncode, done.stderr) == (0, "")
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if _is_leaf(path)}
        assert found == FILES.keys() | LINKS.keys()
    for target, source in FILES.items():
        assert (tmp_path / target).read_bytes() == (ROOT / source).read_bytes()
    for target, program in LINKS.items():
        assert (tmp_path / target).readlink() == Path("/srv/x/bin") / program
    assert install("--destdir", tmp_path, "--uninstall").returncode == 0
    assert not [path for path in tmp_path.rglob("*") if _is_leaf(path)]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/mountd").write_text("theirs")
    done = install("--destdir", tmp_path)
    assert done.returncode == 1
    assert "usr/local/bin/mountd is in the way" in done.stderr
    assert (tmp_path / "usr/local/bin/mountd").read_text() == "theirs"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_without_a_running_systemd_the_unit_is_still_as_hard_as_fuse_allows() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=69", "--no-pager"]
    unit = str(ROOT / "systemd/mountd@.service")
    done = subprocess.run([*command, unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_option_that_is_not_set_has_its_reason_in_the_unit(tmp_path: Path) -> None:
    """What `systemd-analyze security` complains of is either set or named in a comment."""
    unit = (ROOT / "systemd/mountd@.service").read_text()
    for name in (
        *("NoNewPrivileges", "PrivateDevices", "PrivateMounts", "PrivateNetwork", "PrivateTmp"),
        *("PrivateUsers", "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname"),
        *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc"),
        *("ProcSubset", "ProtectSystem", "RestrictAddressFamilies", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter"),
        *("MemoryDenyWriteExecute", "LockPersonality", "IPAddressDeny", "RootDirectory"),
        *("RemoveIPC", "CapabilityBoundingSet", "DeviceAllow", "UMask", "KeyringMode"),
    ):
        assert f"{name}=" in unit, name


@pytest.mark.fuse
@pytest.mark.xdist_group("systemd")
def test_it_can_be_installed_twice_and_removed_and_the_unsent_data_stays(
    bare_machine: Machine,
) -> None:
    machine = bare_machine
    allows = "grep -c '^user_allow_other' /etc/fuse.conf || true"
    for _ in range(2):
        machine.run(*INSTALL)
        assert machine.shell(allows) == "1\n"
    machine.shell("echo unsent >/var/lib/mountd/unsent; chown mountd /var/lib/mountd/unsent")
    try:
        said = machine.run(INSTALL[0], "--uninstall").stderr
        assert "Kept:" in said
        left = machine.shell("ls -d /usr/sbin/*mountd /usr/local/bin/mountd 2>/dev/null || true")
        assert left == ""
        assert machine.shell("cat /var/lib/mountd/unsent") == "unsent\n"
        assert machine.shell(allows) == "0\n"
        machine.run(INSTALL[0], "--uninstall")  # where nothing is left to do
        assert machine.run("systemctl", "cat", "mountd@x", check=False).returncode != 0
    finally:
        machine.shell("rm -f /var/lib/mountd/unsent")
        machine.put_mountd_there()
        machine.run(*INSTALL)


@pytest.mark.fuse
@pytest.mark.xdist_group("systemd")
def test_a_mountd_that_the_service_user_cannot_run_is_named(bare_machine: Machine) -> None:
    bare_machine.shell(f"mkdir -p -m 700 /root/bin; cp {BIN}/* /root/bin/")
    try:
        done = bare_machine.run(INSTALL[0], "--mountd", "/root/bin/mountd", check=False)
        assert done.returncode == 1
        assert "the user mountd can't run /root/bin/mountd" in done.stderr
    finally:
        bare_machine.run(*INSTALL)


def _is_leaf(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()
