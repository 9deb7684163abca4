"""mountd@storage in a booted machine: its files, and what tests ask of it."""

from tests.servers.s3.launch import S3Server
from tests.systemd.machine import Machine

UNIT = "mountd@storage.service"
DROP_IN = f"/run/systemd/system/{UNIT}.d/test.conf"
HOOK = "/opt/mountd-test/hooks/sitecustomize.py"  # runs at the start of each Python in the machine
# A handler runs in the main thread, which is that of the loop: nothing else runs there any more.
HANG = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"


def configure(machine: Machine, server: S3Server, **more: object) -> None:
    options = {"endpoint": server.endpoint, "region": server.region, "allow_other": True, **more}
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for key, value in options.items()
    ]
    machine.write(
        "/etc/mountd/config.toml",
        "\n".join(["[mounts.storage]", 'source = "s3://b"', 'mountpoint = "/storage"', *lines]),
    )
    machine.shell(
        "umask 077; cd /etc/credstore;"
        f"printf %s {server.access_key} >mountd.storage.access_key_id;"
        f"printf %s {server.secret_key} >mountd.storage.secret_access_key"
    )


def shorten(machine: Machine, *lines: str) -> None:
    """Shorter times than the unit's, where a test would wait for them. Only there: on a machine
    that is busy with other tests a loop may have to wait for seconds."""
    machine.write(DROP_IN, "\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl", "daemon-reload")


def main_pid(machine: Machine) -> str:
    return machine.unit(UNIT, "MainPID")["MainPID"]


def stored(machine: Machine) -> int:
    """How many descriptors systemd keeps for the unit."""
    return int(machine.unit(UNIT, "NFileDescriptorStore")["NFileDescriptorStore"])
