"""The sidecar and its consumers, each in namespaces of its own, as an engine starts them."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.docker.containers import DEFAULT_CAPABILITIES, USER, Container, Host
from tests.docker.manifests import SIDECAR
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]


SHARED = "/srv/mountd"  # in compose.yaml: the same in both, and on the host
FUSE = (*DEFAULT_CAPABILITIES, "sys_admin")


def cache(host: Host, owner: int = 0) -> str:
    """A volume for the cache: outside of what is shared, kept from one container to the next."""
    folder = host.folder.parent / "cache"
    host.run("install", "-d", "-o", str(owner), "-g", str(owner), "-m", "700", str(folder))
    return f"{folder}:/var/cache/mountd:private"


def start_sidecar(
    host: Host, environment: Mapping[str, str], *, user: int = 0, **more: Any
) -> Container:
    """As compose.yaml has it: the folder above the mount point is the shared one."""
    if user:
        host.run("chown", f"{user}:{user}", str(host.folder))
    return host.start(
        *SIDECAR,
        volumes=[f"{host.folder}:{SHARED}:rshared", cache(host, user)],
        environment={"MOUNTD_MOUNTPOINT": f"{SHARED}/storage", **environment},
        user=user,
        capabilities=FUSE,
        **more,
    )


def start_consumer(host: Host, *, user: int = 0) -> Container:
    """It sees /storage, by the link that compose.yaml makes."""
    command = f"ln -sfn {SHARED}/storage /storage; exec setpriv --reuid={user} sleep infinity"
    volumes = [f"{host.folder}:{SHARED}:rslave"]
    container = host.start("sh", "-c", command, volumes=volumes)
    container.wait_until("test", "-L", "/storage")
    return container


@pytest.mark.parametrize("user", [0, USER], ids=["root", "not-root"])
def test_a_consumer_that_was_there_before_sees_the_mount_appear_and_what_it_writes_arrives(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer, user: int
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    consumer = start_consumer(host, user=1000)
    assert consumer.run("ls", "/storage/", check=False).returncode != 0
    sidecar = start_sidecar(host, rshare | {"MOUNTD_UID": "1000"}, user=user).healthy()
    assert consumer.run("cat", "/storage/hello.txt").stdout == "hello\n"
    consumer.run("setpriv", "--reuid=1000", "sh", "-c", "echo new >/storage/new.txt")
    sidecar.run("mountd", "flush", f"{SHARED}/storage", "--timeout", "30")
    assert nextcloud_server.read("new.txt") == b"new\n"
    assert f"Uid:\t{user}\t" in Path(f"/proc/{daemon_of(sidecar)}/status").read_text()
    assert host.run("ls", f"{host.folder}/storage") == "hello.txt\nnew.txt\n"


def daemon_of(sidecar: Container) -> int:
    """As this machine numbers it: the only child of its tini."""
    children = Path(f"/proc/{sidecar.pid}/task/{sidecar.pid}/children")
    return int(children.read_text().split()[0])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])
def test_the_consumers_path_answers_again_after_the_sidecar_was_started_anew(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer, how: signal.Signals
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    first = start_sidecar(host, rshare).healthy()
    consumer = start_consumer(host)
    assert consumer.run("cat", "/storage/hello.txt").stdout == "hello\n"
    nextcloud_server.faults({"op": "Put", "hold": True})
    if how == signal.SIGKILL:
        consumer.shell("echo unsent >/storage/unsent.txt")
    first.signal(how)
    first.wait()
    if how == signal.SIGKILL:
        done = consumer.run("ls", "/storage/", check=False)
        assert "not connected" in done.stderr, "an error, and no empty folder"
    second = start_sidecar(host, rshare).healthy()
    assert consumer.run("cat", "/storage/hello.txt").stdout == "hello\n"
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    second.run("mountd", "flush", f"{SHARED}/storage", "--timeout", "30")
    if how == signal.SIGKILL:
        assert consumer.run("cat", "/storage/unsent.txt").stdout == "unsent\n"
        assert nextcloud_server.read("unsent.txt") == b"unsent\n"
    mounts = consumer.run("findmnt", "-rno", "TARGET,FSTYPE").stdout
    assert mounts.count("fuse.mountd") == 1, "the dead one is gone everywhere"


def test_not_root_replaces_the_dead_mount_of_its_predecessor(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    first = start_sidecar(host, rshare, user=USER).healthy()
    consumer = start_consumer(host)
    first.signal(signal.SIGKILL)
    first.wait()
    start_sidecar(host, rshare, user=USER).healthy()
    assert consumer.run("cat", "/storage/hello.txt").stdout == "hello\n"


def test_a_stop_sends_what_is_queued_before_it_ends(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    sidecar = start_sidecar(host, rshare | {"MOUNTD_WRITE_BACK_S": "3600"}).healthy()
    consumer = start_consumer(host)
    consumer.shell("echo late >/storage/late.txt")
    assert nextcloud_server.tree() == []
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 0
    assert nextcloud_server.read("late.txt") == b"late\n"
    assert host.run("ls", f"{host.folder}/storage") == "", "unmounted, on the host too"


def test_a_stop_that_leaves_something_ends_with_75_and_the_next_start_sends_it(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    sidecar = start_sidecar(host, rshare | {"MOUNTD_STOP_TIMEOUT_S": "1"}).healthy()
    start_consumer(host).shell("ls /storage; echo left >/storage/left.txt")
    nextcloud_server.faults({"op": "Put", "hold": True})
    sidecar.shell(f"echo more >{SHARED}/storage/more.txt")
    nextcloud_server.wait_for_requests(1, op="Put")
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 75
    assert "not on the remote; they are kept in /var/cache/mountd/" in sidecar.said
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    start_sidecar(host, rshare).healthy().run(
        "mountd", "flush", f"{SHARED}/storage", "--timeout", "30"
    )
    assert nextcloud_server.read("more.txt") == b"more\n"


def test_the_variables_of_a_platform_around_rclone_mount_the_same_storage(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    """As AI4OS starts its storage container: the mount point itself is the host's folder, the
    password is as Nextcloud made it, because that image obscures it, and REMOTE_PATH is set."""
    nextcloud_server.put("job/model.pt", b"weights")
    nextcloud_server.add_account("job", "Ab3dE-fG7hi-jKL9m-nOpq2-rStu5")
    nextcloud_server.put("job/model.pt", b"weights", user="job")
    environment = rshare | {
        "RCLONE_CONFIG": "/srv/.rclone/rclone.conf",
        "RCLONE_CONFIG_RSHARE_URL": f"{nextcloud_server.url}/remote.php/webdav/",
        "RCLONE_CONFIG_RSHARE_USER": "job",
        "RCLONE_CONFIG_RSHARE_PASS": "Ab3dE-fG7hi-jKL9m-nOpq2-rStu5",
        "REMOTE_PATH": "rshare:/job",
        "LOCAL_PATH": "/storage",
    }
    volumes = [f"{host.folder}:/storage:rshared", cache(host)]
    consumer = host.start("sleep", "infinity", volumes=[f"{host.folder}:/storage:rslave"])
    consumer.wait_until("test", "-d", "/storage")
    sidecar = host.start(
        *SIDECAR, volumes=volumes, environment=environment, capabilities=FUSE
    ).healthy()
    assert consumer.run("cat", "/storage/model.pt").stdout == "weights"
    consumer.shell("echo 1 >/storage/epoch")
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 0
    assert nextcloud_server.read("job/epoch", user="job") == b"1\n"


def test_no_secret_is_in_a_command_line_or_in_what_is_said(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    sidecar = start_sidecar(host, rshare).healthy()
    seen = sidecar.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")  # what `ps` reads
    assert "mountd sidecar" in seen
    seen += sidecar.said + json.dumps(sidecar.status())
    assert nextcloud_server.password not in seen
    assert rshare["RCLONE_CONFIG_RSHARE_PASS"] not in seen


def ended(container: Container) -> tuple[int, str]:
    """Its exit code and its last words: the only line that is neither log nor warning."""
    code = container.wait()
    said = container.said.splitlines()
    lines = [line for line in said if line.startswith("mountd: ") and "warning: " not in line]
    assert lines == said[-1:], container.said
    return code, lines[0]


def bare(
    host: Host, environment: Mapping[str, str], capabilities: Sequence[str] = FUSE
) -> tuple[int, str]:
    volumes = [cache(host)]
    return ended(
        host.start(*SIDECAR, environment=environment, volumes=volumes, capabilities=capabilities)
    )


def test_wrong_credentials_end_with_3_and_one_line(host: Host, rshare: dict[str, str]) -> None:
    code, line = bare(host, rshare | {"RCLONE_CONFIG_RSHARE_PASS": "wrong"})
    assert (code, line.startswith("mountd: rclone:rshare: refuses")) == (3, True)


def test_what_is_wrong_with_the_environment_ends_with_2_and_one_line(host: Host) -> None:
    code, line = bare(host, {})
    assert (code, "nothing to mount: set MOUNTD_SOURCE" in line) == (2, True)
    two = {f"RCLONE_CONFIG_{name}_TYPE": "webdav" for name in ("A", "B")}
    code, line = bare(host, two)
    assert (code, "remotes (a, b) is to be mounted?" in line) == (2, True)


def test_a_remote_that_is_away_ends_with_4_and_a_container_that_may_not_mount_says_so(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    code, line = bare(host, rshare, capabilities=DEFAULT_CAPABILITIES)
    assert (code, "SYS_ADMIN" in line) == (1, True)
    nextcloud_server.refuse_connections()
    code, line = bare(host, rshare)
    assert (code, "does not answer" in line) == (4, True)


def test_what_would_not_be_seen_or_kept_is_said(host: Host, rshare: dict[str, str]) -> None:
    sidecar = host.start(*SIDECAR, environment=rshare, capabilities=FUSE).healthy()
    assert "other containers will not see /storage" in sidecar.said
    assert "cache at /var/cache/mountd is on a file system that does not survive" in sidecar.said
    assert sidecar.status()["cache"]["volatile"] is True  # type: ignore[index]


def test_the_health_check_fails_where_the_daemon_hangs_or_died(
    host: Host, rshare: dict[str, str]
) -> None:
    sidecar = start_sidecar(host, rshare)
    sidecar.healthy()
    daemon = daemon_of(sidecar)
    os.kill(daemon, signal.SIGSTOP)
    done = sidecar.run("mountd", "sidecar", "--check", check=False)
    assert (done.returncode, "does not answer" in done.stdout) == (1, True)
    os.kill(daemon, signal.SIGCONT)
    sidecar.healthy()
