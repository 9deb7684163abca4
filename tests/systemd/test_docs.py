"""docs/systemd.md: every command in it is run, in its order, on a machine without mountd."""

import re
from collections.abc import Iterator

import pytest

from tests.servers.s3.launch import S3Server
from tests.systemd.conftest import INSTALL, KEPT
from tests.systemd.machine import ROOT, Machine

pytestmark = [pytest.mark.fuse, pytest.mark.server, pytest.mark.xdist_group("systemd")]

PAGE = (ROOT / "docs/systemd.md").read_text()
UNIT = "mountd@storage.service"


@pytest.fixture
def fresh(bare_machine: Machine, s3_server: S3Server) -> Iterator[Machine]:
    s3_server.put("my-bucket", "data/hello.txt", b"hello\n")
    bare_machine.run(INSTALL[0], "--uninstall")
    yield bare_machine
    bare_machine.shell(
        f"systemctl disable --now {UNIT} || true; rm -rf {KEPT} /srv/remote /etc/credstore/*"
    )
    bare_machine.run(*INSTALL)


def commands(section: str, server: S3Server) -> list[str]:
    """The `sh` blocks of a section, with this machine's names for what is an example there."""
    text = PAGE.split(f"\n## {section}\n")[1].partition("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert found
    known = {
        # pip would take minutes and a network: --mountd is for who has it installed already.
        "scripts/install-systemd\n": f"{INSTALL[0]} {INSTALL[1]} {INSTALL[2]}\n",
        "scripts/install-systemd --un": f"{INSTALL[0]} --un",
        "https://s3.example.org": server.endpoint,
    }
    for example, here in known.items():
        found = [block.replace(example, here) for block in found]
    return found


def test_a_new_operator_gets_to_a_running_unit_and_rid_of_it_by_the_page_alone(
    fresh: Machine, s3_server: S3Server
) -> None:
    said = [fresh.shell(block) for block in commands("From nothing to a running unit", s3_server)]
    assert "hello.txt" in said[-1]
    assert 'Status: "serves s3://my-bucket/data; remote ok; all is on the remote"' in said[-1]
    assert fresh.shell("stat -c %U /storage/hello.txt") == "nobody\n"
    for block in commands("Away with it", s3_server):
        fresh.shell(block)
    assert fresh.run("mountpoint", "-q", "/storage", check=False).returncode != 0
    assert fresh.run("sh", "-c", "command -v mountd", check=False).returncode != 0


def test_the_line_for_fstab_mounts_and_unmounts_by_hand_and_by_systemd(
    fresh: Machine, s3_server: S3Server
) -> None:
    fresh.run(*INSTALL)
    line = next(line for line in PAGE.splitlines() if " mountd " in line and "_netdev" in line)
    fresh.shell("mkdir -p /srv/data /srv/remote; echo hello >/srv/remote/hello.txt")
    fresh.write("/etc/fstab", line.replace("s3://my-bucket/data", "file:///srv/remote") + "\n")
    try:
        fresh.run("mount", "/srv/data")
        kind = fresh.run("findmnt", "-no", "FSTYPE,SOURCE", "/srv/data").stdout
        assert kind.split() == ["fuse.mountd", "file:///srv/remote"]
        fresh.shell("echo new >/srv/data/new.txt; umount /srv/data")
        assert fresh.run("cat", "/srv/remote/new.txt").stdout == "new\n", "umount has waited"
        fresh.run("systemctl", "daemon-reload")
        fresh.run("systemctl", "start", "srv-data.mount")
        assert fresh.run("cat", "/srv/data/new.txt").stdout == "new\n"
        fresh.shell("echo more >/srv/data/more.txt; systemctl stop srv-data.mount")
        found = fresh.unit("srv-data.mount", "ActiveState", "TimeoutUSec")
        assert found == {"ActiveState": "inactive", "TimeoutUSec": "10min"}
        assert fresh.run("cat", "/srv/remote/more.txt").stdout == "more\n"
    finally:
        fresh.shell("umount -l /srv/data; : >/etc/fstab; systemctl daemon-reload", check=False)


def test_mount_by_its_other_name_and_what_it_refuses(fresh: Machine) -> None:
    fresh.run(*INSTALL)
    fresh.shell("mkdir -p /srv/data /srv/remote")
    fresh.run("mount", "-t", "fuse.mountd", "file:///srv/remote", "/srv/data", "-o", "ro")
    try:
        assert "ro," in fresh.run("findmnt", "-no", "OPTIONS", "/srv/data").stdout
        again = fresh.run("mount", "-o", "remount,rw", "/srv/data", check=False)
        assert (again.returncode, "can't be remounted" in again.stderr) == (1, True)
    finally:
        fresh.run("umount", "/srv/data")
    wrong = fresh.run("mount", "-t", "mountd", "file:///", "/srv/data", "-o", "bogus", check=False)
    assert (wrong.returncode, "unknown option 'bogus'" in wrong.stderr) == (1, True)
    missing = fresh.run("mount", "-t", "mountd", "file:///srv/remote", "/srv/none", check=False)
    assert missing.returncode == 32


def test_the_credentials_that_the_page_lists_are_those_of_the_unit() -> None:
    unit = (ROOT / "systemd/mountd@.service").read_text()
    in_unit = re.findall(r"^LoadCredential=mountd\.(\w+):mountd\.%i\.\1$", unit, re.MULTILINE)
    listed = PAGE.split("and one of:")[1].partition(". Those")[0]
    assert re.findall(r"`(\w+)`", listed) == in_unit
    assert len(in_unit) == unit.count("\nLoadCredential=")
