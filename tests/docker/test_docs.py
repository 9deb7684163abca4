"""docs/docker.md and docs/kubernetes.md: their blocks, in their order, with namespaces in the place
of an engine and of a kubelet (engine.py)."""

import re
import shlex

import pytest

from tests.docker.containers import ROOT, Host
from tests.docker.engine import NOT_RUN, Engine, blocks
from tests.servers.nextcloud.launch import NextcloudServer

pytestmark = [pytest.mark.fuse, pytest.mark.server]

DOCKER = (ROOT / "docs/docker.md").read_text()
KUBERNETES = (ROOT / "docs/kubernetes.md").read_text()


def here(block: str, server: NextcloudServer) -> str:
    """The block with this machine's names for what is an example there."""
    url = f"{server.url}/remote.php/dav/files/{server.user}"
    text = block.replace("https://cloud.example/remote.php/dav/files/USER", url)
    return text.replace("=USER", f"={server.user}").replace(
        "APP-PASSWORD", shlex.quote(server.password)
    )


def test_the_blocks_of_docker_md(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    build, compose, in_place_of_rclone = (here(one, nextcloud_server) for one in blocks(DOCKER))
    assert build.startswith(NOT_RUN)
    assert len(build.splitlines()) == 1
    *before, stop = compose.strip().splitlines()
    engine = Engine(host, rshare)
    said = engine.run("\n".join(before))
    assert "hello.txt" in said
    assert "rclone:rshare:" in said
    engine["program"].shell("echo new >/storage/new.txt")
    engine.run(stop)
    assert nextcloud_server.read("new.txt") == b"new\n"
    said = engine.run(in_place_of_rclone)
    assert "hello.txt\nnew.txt\n" in said


def test_the_blocks_of_kubernetes_md(
    host: Host, rshare: dict[str, str], nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("hello.txt", b"hello\n")
    pod, node = blocks(KUBERNETES)
    engine = Engine(host, rshare)
    said = engine.run(pod)
    assert "hello.txt" in said
    assert "rclone:rshare:" in said
    assert "hello.txt" in engine.run(node)


def test_what_the_pages_say_of_files_and_variables_is_so() -> None:
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    assert "--uid 10001" in dockerfile
    sidecar = (ROOT / "mountd/cli/sidecar.py").read_text()
    for name in ("MOUNTD_SOURCE", "MOUNTD_MOUNTPOINT", "REMOTE_PATH", "LOCAL_PATH"):
        assert f'"{name}"' in sidecar
        assert f"`{name}`" in DOCKER
    for link in re.findall(r"\]\(\.\./(docker/[^)]*)\)", DOCKER + KUBERNETES):
        assert (ROOT / link).exists(), link
