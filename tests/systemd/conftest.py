"""One booted machine for the tests here, with mountd installed by scripts/install-systemd."""

from collections.abc import Iterator

import pytest

from tests.systemd.machine import BIN, REPOSITORY, Machine, NoMachine, booted

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
