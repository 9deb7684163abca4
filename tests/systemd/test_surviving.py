"""Under a real systemd a mount outlives its daemon: systemd's store has the connection."""

import json
import random
from typing import Any

import pytest

from tests.servers.s3.launch import S3Server
from tests.systemd.machine import PYTHON, REPOSITORY, Machine
from tests.systemd.open_file import is_lost, open_file
from tests.systemd.storage import HANG, HOOK, UNIT, configure, main_pid, shorten, stored

pytestmark = [pytest.mark.fuse, pytest.mark.server, pytest.mark.xdist_group("systemd")]

PROGRAMS = f"{REPOSITORY}/tests/mount/surviving_programs.py"
LARGE = random.Random(1).randbytes(8 << 20)
# Python itself fails, as after an upgrade that broke it.
BROKEN = """
import os, sys
if os.path.exists("/run/hooked-broken") and "mount" in sys.orig_argv:
    os._exit(1)
"""
# The first five that are to go on with a mount die when they have begun to.
DIES_LATER = """
import os, sys, threading, time
def die():
    while "mountd.daemon" not in sys.modules:
        time.sleep(0.001)
    with open("/run/mountd-service/hooked-deaths", "a+") as file:
        if file.tell() >= 5:
            return
        file.write("x")
    os.kill(os.getpid(), 9)
if os.environ.get("LISTEN_PID") == str(os.getpid()):
    threading.Thread(target=die, daemon=True).start()
"""


def test_programs_do_not_notice_that_the_daemon_is_killed_again_and_again(
    storage: Machine, s3_server: S3Server
) -> None:
    s3_server.put("b", "large", LARGE)
    s3_server.put("b", "doomed", b"0123456789" * 1000)
    for number in range(300):
        s3_server.put("b", f"many/name-{number:05}", b"")
    storage.run("systemctl", "start", UNIT)
    assert stored(storage) == 2
    command = f"{PYTHON} {PROGRAMS} /storage /run/hooked-stop >/run/mountd-service/told"
    storage.shell(f"systemd-run --unit=programs --uid=mountd sh -c '{command}'")
    storage.shell(
        "cd /run; until test -e /storage/made && ! test -e /storage/doomed; do sleep .1; done"
    )
    for deaths in range(1, 3):
        before = main_pid(storage)
        storage.kill("SIGKILL", UNIT)
        storage.wait_for(UNIT, NRestarts=str(deaths), ActiveState="active", StatusText="serves")
        assert main_pid(storage) != before
        assert stored(storage) == 2, "the record of the dead one was removed"
    storage.run("touch", "/run/hooked-stop")
    storage.wait_for("programs", ActiveState="inactive", Result="success")
    told: dict[str, Any] = json.loads(storage.shell("cat /run/mountd-service/told"))
    assert not [program for program in told.values() if "error" in program], told
    storage.run("systemctl", "stop", UNIT)
    assert stored(storage) == 0
    assert storage.unit(UNIT, "Result") == {"Result": "success"}
    lines = b"".join(b"%08d\n" % number for number in range(told["append"]["lines"]))
    assert s3_server.read("b", "appended") == lines
    for number in range(0, told["make_and_remove"]["made"], 2):
        assert s3_server.read("b", f"made/{number}/b") == b"%d" % number
    assert storage.journal(UNIT).count("going on for a daemon that ended") == 2


def test_a_daemon_that_is_dead_and_can_not_end_is_gone_on_for_once_systemd_gives_it_up(
    storage: Machine, s3_server: S3Server
) -> None:
    """The kernel keeps a thread of it waiting for a directory, which a caller holds that waits for
    the daemon. Only the watchdog notices."""
    s3_server.put("b", "d/f", b"bytes")
    configure(storage, s3_server, metadata_ttl_s=1)
    shorten(storage, "WatchdogSec=5s", "TimeoutAbortSec=1s", "TimeoutStopSec=2s")
    storage.run("systemctl", "start", UNIT)
    with open_file(storage) as found:
        storage.shell("ls /storage/d; sleep 1.2")  # the listing of the root is too old then
        s3_server.faults({"op": "ListObjectsV2", "hold": True})
        storage.run("systemd-run", "--unit=looks", "stat", "/storage/new")
        s3_server.wait_for_requests(1, op="ListObjectsV2")
        storage.run("systemd-run", "--unit=refreshes", "mountd", "refresh", "/storage/d")
        tasks = f"/proc/{main_pid(storage)}/task"
        storage.shell(
            f"timeout 30 sh -c 'until grep -l inval_entry {tasks}/*/wchan; do sleep .1; done'"
        )
        storage.kill("SIGKILL", UNIT)
        s3_server.clear_faults()
        s3_server.release()
        storage.wait_for(UNIT, restarts=1, ActiveState="active", StatusText="serves")
    assert found == [0]
    assert "the kernel keeps a thread of it" in storage.journal(UNIT)


def test_a_reload_is_an_upgrade_and_the_store_holds_what_the_new_code_noted(
    storage: Machine,
) -> None:
    storage.run("systemctl", "start", UNIT)
    with open_file(storage) as found:
        before = main_pid(storage)
        storage.run("systemctl", "reload", UNIT)
        assert stored(storage) == 2
        assert main_pid(storage) == before
        storage.kill("SIGKILL", UNIT)
        storage.wait_for(UNIT, NRestarts="1", ActiveState="active", StatusText="serves")
    assert found == [0]
    (status,) = json.loads(storage.run("mountd", "status", "/storage", "--json").stdout)
    assert status["state"] == "ready"
    assert storage.journal(UNIT).count("going on for a daemon that ended") == 2


def test_a_restart_unmounts_and_mounts(storage: Machine, s3_server: S3Server) -> None:
    storage.run("systemctl", "start", UNIT)
    with open_file(storage) as found:
        storage.shell("echo new >/storage/new.txt")
        storage.run("systemctl", "restart", UNIT)
        assert s3_server.read("b", "new.txt") == b"new\n", "it has drained"
        assert stored(storage) == 2
    assert is_lost(found)
    assert "going on for" not in storage.journal(UNIT)


def test_a_python_that_can_not_start_ends_the_unit_callers_get_errors_and_a_start_repairs(
    storage: Machine,
) -> None:
    storage.write(HOOK, HANG + BROKEN)
    start = "/bin/sh /usr/local/lib/mountd/start 5 /run/mountd-service/%i.since"
    shorten(storage, "ExecStart=", f"ExecStart={start} /usr/local/bin/mountd mount %i --foreground")
    storage.run("systemctl", "start", UNIT)
    with open_file(storage) as found:
        storage.run("touch", "/run/hooked-broken")
        storage.kill("SIGKILL", UNIT)
        storage.run("touch", "/run/hooked-look")  # it waits from here on
        ended = storage.wait_for(UNIT, ActiveState="failed", ExecMainStatus="76")
        assert ended["ExecMainStatus"] == "76"
    assert is_lost(found)
    assert stored(storage) == 0
    assert "giving up, open files there are lost" in storage.journal(UNIT)
    storage.run("rm", "/run/hooked-broken")
    storage.run("systemctl", "start", UNIT)
    assert storage.run("cat", "/storage/hello.txt").stdout == "hello\n"
    storage.kill("SIGKILL", UNIT)
    storage.wait_for(UNIT, NRestarts="1", ActiveState="active", StatusText="serves")
    assert "going on for" in storage.journal(UNIT)


def test_callers_are_told_when_systemd_itself_can_not_start_the_next_daemon(
    storage: Machine,
) -> None:
    storage.run("systemctl", "start", UNIT)
    with open_file(storage) as found:
        storage.shell("echo nothing that could be decrypted >/etc/credstore/other")
        shorten(storage, "LoadCredentialEncrypted=mountd.token:/etc/credstore/other")
        storage.kill("SIGKILL", UNIT)
        storage.wait_for(UNIT, ActiveState="failed", ExecMainStatus="243")
    assert is_lost(found)
    assert stored(storage) == 0


def test_daemons_that_die_when_they_go_on_are_followed_by_one_that_mounts_anew(
    storage: Machine,
) -> None:
    storage.write(HOOK, HANG + DIES_LATER)
    shorten(storage, "RestartSec=100ms")
    storage.run("systemctl", "start", UNIT)
    with open_file(storage) as found:
        storage.kill("SIGKILL", UNIT)
        storage.wait_for(UNIT, NRestarts="6", ActiveState="active", StatusText="serves")
        assert storage.run("cat", "/storage/hello.txt").stdout == "hello\n"
    assert is_lost(found)
    assert stored(storage) == 2
    assert "died, one after the other" in storage.journal(UNIT)


def test_a_mount_by_hand_takes_nothing_of_a_unit_that_is_dead(
    storage: Machine, s3_server: S3Server
) -> None:
    """What is handed over is for the process whose number stands beside it."""
    configure(storage, s3_server)
    # A folder of its own: a listing that another test's mount kept is believed for its TTL.
    storage.shell("mkdir -p /srv/for-hand /srv/by-hand; echo hand >/srv/for-hand/file")
    environment = "LISTEN_FDS=2 LISTEN_PID=1 LISTEN_FDNAMES=mountd-connection-0:mountd-record-0"
    storage.shell(f"{environment} mountd mount file:///srv/for-hand /srv/by-hand")
    try:
        assert storage.run("cat", "/srv/by-hand/file").stdout == "hand\n"
    finally:
        storage.run("mountd", "umount", "/srv/by-hand")
