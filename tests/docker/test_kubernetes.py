"""docker/kubernetes/ as it stands, started as a kubelet does: order, probes, preStop, the end."""

import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from tests.docker.containers import Container, Host
from tests.docker.manifests import documents, start_pods_container
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

ANY_PORT = {"MOUNTD_METRICS": "127.0.0.1:0"}  # the network is this machine's


def probe(container: Mapping[str, Any], name: str, address: str) -> int:
    path = container[name]["httpGet"]["path"]
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def started(container: Container) -> str:
    """The address of its probes."""
    container.wait_until_it_says(" serves ")
    return str(container.status()["metrics"])


def test_a_pods_program_has_the_files_and_at_its_end_all_is_on_the_remote(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    pod = documents("kubernetes/pod.yaml")[0]["spec"]
    (wanted,), (program_wanted,) = pod["initContainers"], pod["containers"]
    given = {"secret": rshare, "changed": ANY_PORT | {"MOUNTD_WRITE_BACK_S": "3600"}}
    sidecar = start_pods_container(host, pod, wanted, **given)
    address = started(sidecar)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert probe(wanted, name, address) == 200
    program = start_pods_container(host, pod, program_wanted)
    program.wait_until_it_says("hello.txt")
    program.shell("echo early >/srv/mountd/storage/early.txt")
    sidecar.run(*wanted["lifecycle"]["preStop"]["exec"]["command"])
    assert nextcloud_server.read("early.txt") == b"early\n"
    program.shell("echo late >/srv/mountd/storage/late.txt")
    program.end()
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 0
    assert nextcloud_server.read("late.txt") == b"late\n"


def test_a_sidecar_that_is_started_anew_in_its_pod_is_seen_by_the_program(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    pod = documents("kubernetes/pod.yaml")[0]["spec"]
    (wanted,), (program_wanted,) = pod["initContainers"], pod["containers"]
    given = {"secret": rshare, "changed": ANY_PORT}
    first = start_pods_container(host, pod, wanted, **given).healthy()
    program = start_pods_container(host, pod, program_wanted)
    program.wait_until_it_says("hello.txt")
    first.signal(signal.SIGKILL)
    first.wait()
    second = start_pods_container(host, pod, wanted, **given)
    address = started(second)
    assert program.run("cat", "/srv/mountd/storage/hello.txt").stdout == "hello\n"
    nextcloud_server.refuse_connections()
    second.run("ls", "/srv/mountd/storage/elsewhere", check=False)
    assert probe(wanted, "livenessProbe", address) == 200, "no restart for a remote that is away"


def test_a_nodes_mount_serves_an_unprivileged_pod_that_was_there_first(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    daemon_set, reader = documents("kubernetes/daemonset.yaml")
    pod = daemon_set["spec"]["template"]["spec"]
    (wanted,) = pod["containers"]
    host.run("install", "-d", "-m", "700", f"{host.folder}/srv/mountd/storage")
    (reader_wanted,) = reader["spec"]["containers"]
    program = start_pods_container(host, reader["spec"], reader_wanted)
    program.wait_until_it_says("Permission denied")
    conf = "[rshare]\n" + "".join(
        f"{key.removeprefix('RCLONE_CONFIG_RSHARE_').lower()} = {value}\n"
        for key, value in rshare.items()
    )
    secret = host.folder.parent / "volume-secret"
    secret.mkdir()
    (secret / "rclone.conf").write_text(conf)
    (secret / "rclone.conf").chmod(0o400)
    start_pods_container(host, pod, wanted, changed=ANY_PORT).healthy()
    program.wait_until_it_says("hello.txt")
    program.shell("echo new >/srv/mountd/storage/new.txt")
