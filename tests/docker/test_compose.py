"""docker/compose.yaml as it stands: its users, capabilities, volumes and propagation."""

import signal

import pytest

from tests.docker.containers import Host
from tests.docker.manifests import start_service
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]


def test_the_program_has_storage_before_and_after_the_sidecar_was_killed_and_a_stop_sends_all(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    host.run("chown", "10001:10001", host.path("/srv/mountd"))
    first = start_service(host, "mountd", rshare).healthy()
    program = start_service(host, "program", rshare)
    program.wait_until_it_says("hello.txt")
    program.shell("echo one >/storage/one.txt; test -O /storage/one.txt")
    first.signal(signal.SIGKILL)
    first.wait()
    second = start_service(host, "mountd", rshare, {"MOUNTD_WRITE_BACK_S": "3600"}).healthy()
    assert program.shell("cat /storage/hello.txt /storage/one.txt") == "hello\none\n"
    program.shell("echo two >/storage/two.txt")
    second.signal(signal.SIGTERM)
    assert second.wait() == 0
    assert nextcloud_server.read("one.txt") + nextcloud_server.read("two.txt") == b"one\ntwo\n"
    assert program.run("ls", "/storage/", check=False).returncode != 0, "no empty folder"
