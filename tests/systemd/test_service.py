"""mountd@.service under a real systemd: starts, crashes, hangs, drains, and leaves something."""

import json
import os
import re
import time

import pytest

from tests.servers.s3.launch import S3Server
from tests.systemd.machine import Machine
from tests.systemd.open_file import open_file
from tests.systemd.storage import UNIT, configure, main_pid, shorten

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.server,
    # One machine for all of them.
    pytest.mark.xdist_group("systemd"),
]


def test_when_start_returns_the_path_answers_and_the_status_says_what_is_served(
    storage: Machine,
) -> None:
    storage.run("systemctl", "start", UNIT)
    assert storage.run("cat", "/storage/hello.txt").stdout == "hello\n"
    found = storage.unit(UNIT, "ActiveState", "StatusText", "User")
    assert found == {
        "ActiveState": "active",
        "StatusText": "serves s3://b; remote ok; all is on the remote",
        "User": "mountd",
    }
    mount = storage.run("findmnt", "-no", "FSTYPE,OPTIONS", "/storage").stdout
    assert mount.startswith("fuse.mountd")
    assert "allow_other" in mount
    (status,) = json.loads(storage.run("mountd", "status", "/storage", "--json").stdout)
    assert (status["source"], status["state"]) == ("s3://b", "ready"), "root sees it"


def test_root_gives_the_service_the_speed_that_its_user_cannot_set(storage: Machine) -> None:
    storage.run("systemctl", "start", UNIT)
    device = storage.run("mountpoint", "-d", "/storage").stdout.strip()
    read_ahead = storage.run("cat", f"/sys/class/bdi/{device}/read_ahead_kb").stdout
    assert read_ahead == "1024\n"
    (status,) = json.loads(storage.run("mountd", "status", "/storage", "--json").stdout)
    assert (status["kernel"]["read_ahead_kb"], status["kernel"]["notes"]) == (1024, [])
    assert "WARNING" not in re.sub(r".*does not survive.*", "", storage.journal(UNIT))


def test_an_unmount_by_hand_ends_the_unit_and_is_not_undone(storage: Machine) -> None:
    storage.run("systemctl", "start", UNIT)
    storage.run("mountd", "umount", "/storage")
    found = storage.wait_for(UNIT, ActiveState="inactive", Result="success", NRestarts="0")
    assert found["ActiveState"] == "inactive"


def test_secrets_come_from_the_credential_store_and_stay_out_of_sight(
    storage: Machine, s3_server: S3Server
) -> None:
    storage.run("systemctl", "start", UNIT)
    assert storage.run("cat", "/storage/hello.txt").stdout == "hello\n", "signed requests only"
    told = storage.run("systemctl", "show", UNIT).stdout + storage.journal(UNIT)
    told += storage.shell(f"tr '\\0' '\\n' </proc/{main_pid(storage)}/environ; ps axww")
    assert s3_server.secret_key not in told


def test_a_killed_daemon_is_started_again_and_sends_what_it_had(
    storage: Machine, s3_server: S3Server
) -> None:
    storage.run("systemctl", "start", UNIT)
    s3_server.faults({"op": "PutObject", "hold": True})
    storage.shell("setpriv --reuid mountd --clear-groups sh -c 'echo kept >/storage/new.txt'")
    before = main_pid(storage)
    storage.kill("SIGKILL", UNIT)
    storage.wait_for(UNIT, NRestarts="1", ActiveState="active", StatusText="serves")
    assert main_pid(storage) != before
    assert storage.run("cat", "/storage/hello.txt", "/storage/new.txt").stdout == "hello\nkept\n"
    s3_server.clear_faults()
    s3_server.release()
    storage.wait_for(UNIT, StatusText="all is on the remote")
    assert s3_server.read("b", "new.txt") == b"kept\n"


def test_an_upgrade_is_no_end_and_no_restart_for_systemd_and_open_files_stay(
    storage: Machine,
) -> None:
    storage.run("systemctl", "start", UNIT)
    before = main_pid(storage)
    reads = "exec 5</storage/hello.txt; touch /run/held; until test -e /run/go; do sleep .1; done"
    storage.run("systemd-run", "--unit=reader", "sh", "-c", f"{reads}; cat <&5 >/run/told")
    storage.shell("until test -e /run/held; do sleep .1; done")
    storage.run("mountd", "upgrade", "/storage")
    storage.run("touch", "/run/go")
    storage.wait_for("reader", ActiveState="inactive")
    assert storage.run("cat", "/run/told").stdout == "hello\n"
    storage.wait_for(UNIT, ActiveState="active", StatusText="serves", NRestarts="0")
    assert main_pid(storage) == before
    storage.run("systemctl", "stop", UNIT)
    assert "going on for" in storage.journal(UNIT)


@pytest.mark.parametrize("signal", ["SIGSTOP", "SIGUSR1"], ids=["stopped", "loop-stuck"])
def test_a_daemon_whose_loop_says_nothing_is_ended_by_the_watchdog_and_started_again(
    storage: Machine, signal: str
) -> None:
    shorten(storage, "WatchdogSec=4s", "TimeoutAbortSec=5s")
    storage.run("systemctl", "start", UNIT)
    before = main_pid(storage)
    with open_file(storage) as found:
        storage.kill(signal, UNIT)
        # Or more: on a machine that is busy enough the next daemon, too, says nothing for 4 s.
        storage.wait_for(UNIT, restarts=1, ActiveState="active", StatusText="serves")
    assert main_pid(storage) != before
    assert found == [0]
    journal = storage.journal(UNIT)
    assert "Watchdog timeout" in journal
    if signal == "SIGUSR1":
        assert "sitecustomize.py" in journal, "it says where it was stuck"
    assert storage.run("cat", "/storage/hello.txt").stdout == "hello\n"


def test_a_stop_waits_for_the_queue_past_systemds_own_timeout(
    storage: Machine, s3_server: S3Server
) -> None:
    shorten(storage, "TimeoutStopSec=4s")
    storage.run("systemctl", "start", UNIT)
    s3_server.faults({"op": "PutObject", "hold": True})
    storage.shell("setpriv --reuid mountd --clear-groups sh -c 'echo slow >/storage/slow.txt'")
    s3_server.wait_for_requests(1, op="PutObject")
    storage.run("systemctl", "stop", "--no-block", UNIT)
    found = storage.wait_for(UNIT, ActiveState="deactivating", StatusText="stopping")
    assert "1 change (5 B) to send" in found["StatusText"]
    time.sleep(5)  # TimeoutStopSec is 4 s: without EXTEND_TIMEOUT_USEC it is killed by now
    assert storage.unit(UNIT, "ActiveState") == {"ActiveState": "deactivating"}
    s3_server.clear_faults()
    s3_server.release()
    storage.wait_for(UNIT, ActiveState="inactive", Result="success")
    assert s3_server.read("b", "slow.txt") == b"slow\n"
    assert storage.run("mountpoint", "-q", "/storage", check=False).returncode != 0


def test_a_stop_that_leaves_something_is_shown_as_failed_and_the_next_start_sends_it(
    storage: Machine, s3_server: S3Server
) -> None:
    configure(storage, s3_server, stop_timeout_s=1)
    storage.run("systemctl", "start", UNIT)
    storage.run("ls", "/storage")  # in a directory that is known new files can be made offline
    s3_server.refuse_connections()
    storage.shell("setpriv --reuid mountd --clear-groups sh -c 'echo left >/storage/left.txt'")
    storage.wait_for(UNIT, StatusText="remote unreachable; 1 change (5 B) to send")
    storage.run("systemctl", "stop", UNIT)
    found = storage.unit(UNIT, "ActiveState", "Result", "ExecMainStatus", "StatusText", "NRestarts")
    words = found.pop("StatusText")
    assert re.fullmatch(
        r"ended: 1 change \(5 B\) not on the remote; kept in /var/lib/mountd/s3-b-\w+, "
        "the next start sends them",
        words,
    )
    assert found == {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": "75",
        "NRestarts": "0",
    }
    assert UNIT in storage.run("systemctl", "--failed", "--plain").stdout
    everything = json.loads(storage.run("mountd", "status", "--json").stdout)
    (idle,) = (one for one in everything if one["source"] == "s3://b")
    assert (idle["state"], idle["queue"]["pending"]) == ("no daemon", 1), "root sees what is left"
    s3_server.accept_connections()
    storage.run("systemctl", "start", UNIT)
    storage.wait_for(UNIT, StatusText="all is on the remote")
    assert s3_server.read("b", "left.txt") == b"left\n"


def test_what_trying_again_does_not_mend_is_not_tried_again_and_says_why(
    storage: Machine, s3_server: S3Server
) -> None:
    s3_server.set_identities({"access_key": "OTHER", "secret_key": "OTHER", "session_token": None})
    done = storage.run("systemctl", "start", UNIT, check=False)
    assert done.returncode != 0
    found = storage.unit(UNIT, "ActiveState", "ExecMainStatus", "NRestarts", "StatusText")
    words = found.pop("StatusText")
    assert found == {"ActiveState": "failed", "ExecMainStatus": "3", "NRestarts": "0"}
    assert words.startswith("failed: s3://b refuses")


def test_a_remote_that_is_away_at_the_first_start_is_tried_again_until_it_is_there(
    storage: Machine, s3_server: S3Server
) -> None:
    s3_server.refuse_connections()
    shorten(storage, "RestartSec=100ms")
    storage.run("systemctl", "start", "--no-block", UNIT)
    # systemd's own limit is five starts within ten seconds.
    assert storage.unit(UNIT, "StartLimitIntervalUSec") == {"StartLimitIntervalUSec": "0"}
    storage.wait_for(UNIT, restarts=2)
    s3_server.accept_connections()
    storage.wait_for(UNIT, ActiveState="active", StatusText="serves s3://b")


def test_the_units_are_in_order_and_as_hard_as_fuse_allows(storage: Machine) -> None:
    place = "/usr/local/lib/systemd/system"
    done = storage.run("systemd-analyze", "verify", f"{place}/{UNIT}", f"{place}/mountd.target")
    assert done.stdout + done.stderr == ""
    # 6.9 now: what can't be set, and why, stands in the unit.
    done = storage.run("systemd-analyze", "security", "--threshold=69", UNIT, check=False)
    assert done.returncode == 0, done.stdout
    after = storage.unit(UNIT, "After", "Before", "Wants")
    assert "network-online.target" in after["After"]
    assert "network-online.target" in after["Wants"]


def test_what_is_ordered_after_the_target_finds_the_mounts(storage: Machine) -> None:
    storage.run("systemctl", "enable", UNIT)
    try:
        storage.write(
            "/run/systemd/system/training.service",
            "[Unit]\nRequires=mountd.target\nAfter=mountd.target\n"
            "[Service]\nType=oneshot\nExecStart=cat /storage/hello.txt\n",
        )
        storage.run("systemctl", "daemon-reload")
        storage.run("systemctl", "start", "training.service")
        assert "hello" in storage.journal("training.service")
        storage.run("systemctl", "stop", "mountd.target")
        storage.wait_for(UNIT, ActiveState="inactive")
    finally:
        storage.run("systemctl", "disable", UNIT)


def test_the_mounts_files_can_be_given_to_another_user(
    storage: Machine, s3_server: S3Server
) -> None:
    configure(storage, s3_server, uid="nobody", umask="077")
    storage.run("systemctl", "start", UNIT)
    read = "setpriv --reuid {} --clear-groups cat /storage/hello.txt"
    assert storage.shell(read.format("nobody")) == "hello\n"
    assert storage.run(*read.format("mountd").split(), check=False).returncode != 0
    assert os.path.basename(storage.run("stat", "-c", "%U", "/storage/hello.txt").stdout) == (
        "nobody\n"
    )
