"""`docker` and `kubectl` as docs/docker.md and docs/kubernetes.md type them, by containers.py.

Only those forms: any other is a KeyError or argparse's complaint.
"""

import argparse
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from tests.docker.containers import DEFAULT_CAPABILITIES, Container, Host
from tests.docker.manifests import (
    ENTRYPOINT,
    SIDECAR,
    documents,
    named_volume,
    start_pods_container,
    start_service,
)

NOT_RUN = ("docker build",)  # takes minutes: tests/docker/image.py does it, by hand
_ANY_PORT = {"MOUNTD_METRICS": "127.0.0.1:0"}  # the network is this machine's


def blocks(page: str) -> list[str]:
    """The `sh` blocks of a page."""
    return re.findall(r"```sh\n(.*?)```", page, re.DOTALL)


class Engine:
    """One host and what runs on it, by its name. `secret`: what secret.yaml is to hold."""

    def __init__(self, host: Host, secret: Mapping[str, str]) -> None:
        self._host = host
        self._secret = secret
        self._variables: dict[str, str] = {}
        self._running: dict[str, Container] = {}
        self._wanted: dict[str, dict[str, Any]] = {}

    def run(self, block: str) -> str:
        """What the commands of a block write."""
        lines = block.replace("\\\n", " ").splitlines()
        return "".join(self._command(shlex.split(line)) for line in lines if line.strip())

    def __getitem__(self, name: str) -> Container:
        return self._running[name]

    def _command(self, words: list[str]) -> str:
        if " ".join(words).startswith(NOT_RUN):
            return ""
        if words[0] == "export":
            self._variables |= dict(word.split("=", 1) for word in words[1:])
            return ""
        if words[0] == "sudo":
            return self._host.run(*words[1:-1], self._host.path(words[-1]))
        if words[:2] == ["docker", "compose"]:
            assert words[2:4] == ["-f", "docker/compose.yaml"]
            return self._compose(words[4], words[5:])
        name = f"_{words[0]}_{words[1]}"
        return str(getattr(self, name)(words[2:]))

    def _compose(self, verb: str, words: Sequence[str]) -> str:
        if verb == "up":
            for name in ("mountd", "program"):
                self._running[name] = start_service(self._host, name, self._variables)
                if name == "mountd":  # depends_on: service_healthy
                    self._running[name].healthy()
            self._running["program"].wait_until_it_says("total")
            return ""
        if verb == "exec":
            return self._running[words[0]].run(*words[1:]).stdout
        assert verb == "stop"
        self._running["program"].end()
        return self._docker_stop(["mountd"])

    def _docker_run(self, words: Sequence[str]) -> str:
        parser = argparse.ArgumentParser()
        for flag in ("--detach", "--rm"):
            parser.add_argument(flag, action="store_true")
        for option in ("--name", "--stop-timeout"):
            parser.add_argument(option)
        for option in ("--device", "--cap-add", "--security-opt", "--volume", "--env"):
            parser.add_argument(option, action="append", default=[])
        parser.add_argument("image")
        parser.add_argument("command", nargs="*")
        given = parser.parse_args(words)
        is_ours = given.image == "mountd"
        own = (*ENTRYPOINT, *given.command) if given.command else SIDECAR
        container = self._host.start(
            *(own if is_ours else given.command),
            volumes=[self._volume(text) for text in given.volume],
            environment={name: self._variables[name] for name in given.env},
            capabilities=(*DEFAULT_CAPABILITIES, *given.cap_add),
        )
        if given.detach:
            self._running[given.name] = container.healthy()
            return ""
        assert container.wait() == 0, container.said
        return container.said

    def _volume(self, text: str) -> str:
        source, target, *how = text.split(":")
        if source.startswith("/"):
            return f"{self._host.path(source)}:{target}:{how[0]}"
        return f"{named_volume(self._host, source)}:{target}:private"

    def _docker_exec(self, words: Sequence[str]) -> str:
        return self._running[words[0]].run(*words[1:]).stdout

    def _docker_stop(self, words: Sequence[str]) -> str:
        container = self._running.pop(words[0])
        container.signal(signal.SIGTERM)
        assert container.wait() == 0, container.said
        return ""

    # -- kubectl

    def _kubectl_apply(self, words: Sequence[str]) -> str:
        for document in _documents(words):
            if document["kind"] == "Secret":
                assert set(document["stringData"]) == set(self._secret)
            else:
                self._start_pod(document["metadata"]["name"], document)
        return ""

    def _start_pod(self, name: str, document: Mapping[str, Any]) -> None:
        spec = document["spec"]
        pod = spec["template"]["spec"] if "template" in spec else spec
        given = {"secret": self._secret, "changed": _ANY_PORT}
        for wanted in pod.get("initContainers", ()):
            assert wanted["restartPolicy"] == "Always"
            sidecar = start_pods_container(self._host, pod, wanted, **given)
            self._keep(name, wanted, sidecar.healthy())
        for wanted in pod["containers"]:
            container = start_pods_container(self._host, pod, wanted, **given)
            self._keep(name, wanted, container)

    def _keep(self, pod: str, wanted: dict[str, Any], container: Container) -> None:
        self._running[f"{pod}/{wanted['name']}"] = container
        self._wanted[f"{pod}/{wanted['name']}"] = wanted

    def _kubectl_wait(self, words: Sequence[str]) -> str:
        pod = words[-1].removeprefix("pod/")
        self._running[f"{pod}/program"].wait_until_it_says("total")
        return ""

    def _kubectl_rollout(self, words: Sequence[str]) -> str:
        assert words == ["status", "daemonset/mountd"]
        self._running["mountd/mountd"].healthy()
        self._running["reader/program"].wait_until("ls", "/srv/mountd/storage")
        return ""

    def _kubectl_exec(self, words: Sequence[str]) -> str:
        at = words.index("--")
        container = words[2] if words[1] == "-c" else "program"
        return self._running[f"{words[0]}/{container}"].run(*words[at + 1 :]).stdout

    def _kubectl_create(self, words: Sequence[str]) -> str:
        assert words == ["secret", "generic", "mountd-rclone", "--from-file=rclone.conf"]
        lines = (
            f"{key.removeprefix('RCLONE_CONFIG_RSHARE_').lower()} = {text}\n"
            for key, text in self._secret.items()
        )
        folder = self._host.folder.parent / "volume-secret"
        folder.mkdir()
        (folder / "rclone.conf").write_text("[rshare]\n" + "".join(lines))
        (folder / "rclone.conf").chmod(0o400)
        return ""

    def _kubectl_delete(self, words: Sequence[str]) -> str:
        pods = (
            [words[1]]
            if words[0] == "pod"
            else [one["metadata"]["name"] for one in _documents(words)]
        )
        for name in [key for key in self._running if key.partition("/")[0] in pods]:
            hook = self._wanted[name].get("lifecycle", {}).get("preStop")
            if hook:
                self._running[name].run(*hook["exec"]["command"])
        ours = [key for key in self._running if key.startswith(tuple(f"{one}/" for one in pods))]
        for name in sorted(ours, key=lambda key: key.endswith("/mountd")):
            if name.endswith("/mountd"):  # a sidecar ends after all others
                self._docker_stop([name])
            else:
                self._running.pop(name).end()
        return ""


def _documents(words: Sequence[str]) -> list[dict[str, Any]]:
    files = [word.removeprefix("docker/") for word in words if word != "-f"]
    return [document for file in files for document in documents(file)]
