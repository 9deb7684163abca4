"""One booted machine for the tests here, with mountd installed by scripts/install-systemd."""

from collections.abc import Iterator

import pytest

from tests.servers.s3.launch import S3Server
from tests.systemd.machine import BIN, REPOSITORY, Machine, NoMachine, booted
from tests.systemd.storage import DROP_IN, HANG, HOOK, UNIT, configure

# What daemons keep from one mount of a SOURCE to the next: the units', and those of root by hand.
KEPT = "/var/lib/mountd/* /var/cache/mountd"
INSTALL = (f"{REPOSITORY}/scripts/install-systemd", "--mountd", f"{BIN}/mountd")


@pytest.fixture(scope="session")
def bare_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        with booted(tmp_path_factory.mktemp("systemd")) as machine:
            yield machine
    except NoMachine as error:
        pytest.skip(f"no systemd can be booted in a namespace here: {error}")


@pytest.fixture(scope="session")
def machine(bare_machine: Machine) -> Machine:
    bare_machine.run(*INSTALL)
    return bare_machine


@pytest.fixture
def storage(machine: Machine, s3_server: S3Server) -> Iterator[Machine]:
    """s3://b on /storage, set up as docs/systemd.md says, not started."""
    s3_server.put("b", "hello.txt", b"hello\n")
    configure(machine, s3_server)
    machine.run("rm", "-f", DROP_IN)
    machine.write(HOOK, HANG)
    machine.shell("systemctl daemon-reload; install -d -o mountd -g mountd /storage")
    machine.begin_journal()
    yield machine
    s3_server.clear_faults()
    s3_server.release()
    s3_server.accept_connections()
    machine.run("systemctl", "kill", "--signal=SIGKILL", UNIT, check=False)
    machine.shell(
        f"rm -f /run/hooked*; systemctl stop {UNIT} || true; systemctl reset-failed {UNIT} || true;"
        f"umount -il /storage || true; rm -rf {KEPT} /etc/credstore/*",
    )
