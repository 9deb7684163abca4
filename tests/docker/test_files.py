"""The Dockerfile, compose.yaml and the manifests: linters, schemas, and what must agree."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compose_spec import PyCompose

from mountd.config.load import read_environment
from tests.docker.image import DOCKERFILE, instructions
from tests.docker.manifests import ENTRYPOINT, FOLDER, SIDECAR, documents

BIN = Path(sys.executable).parent
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    command = [str(BIN / "hadolint"), "--failure-threshold", "style", str(DOCKERFILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_compose_yaml_is_what_the_compose_specification_allows() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    compose = PyCompose.from_yaml(text)
    compose.validate()
    compose.to_spec()
    with pytest.raises(ValueError, match="propagatoin"):
        PyCompose.from_yaml(text.replace("propagation: rslave", "propagatoin: rslave"))


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_the_manifests_are_what_the_api_of_kubernetes_takes(version: str) -> None:
    """1.29 is the first with native sidecars."""
    command = [str(BIN / "kubernetes-validate"), "--strict", "-k", version, *map(str, MANIFESTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tests_start_what_the_image_starts() -> None:
    words = dict(instructions(DOCKERFILE.read_text()))
    assert json.loads(words["ENTRYPOINT"]) == list(ENTRYPOINT)
    assert (*ENTRYPOINT, *json.loads(words["CMD"])) == SIDECAR
    check = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    assert check == ["mountd", "sidecar", "--check"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_whoever_stops_the_sidecar_waits_longer_than_it_waits_for_its_queue() -> None:
    service = documents("compose.yaml")[0]["services"]["mountd"]
    waits = seconds(service["environment"]["MOUNTD_STOP_TIMEOUT_S"])
    assert seconds(service["stop_grace_period"]) >= waits + 30
    pod = documents("kubernetes/pod.yaml")[0]["spec"]
    daemon_set = documents("kubernetes/daemonset.yaml")[0]["spec"]["template"]["spec"]
    for spec, container in (
        (pod, pod["initContainers"][0]),
        (daemon_set, daemon_set["containers"][0]),
    ):
        given = {one["name"]: one["value"] for one in container["env"]}
        grace = spec["terminationGracePeriodSeconds"]
        assert grace >= int(given["MOUNTD_STOP_TIMEOUT_S"]) + 30


def test_every_option_in_them_is_one() -> None:
    text = "".join(path.read_text() for path in (FOLDER / "compose.yaml", *MANIFESTS))
    named = dict.fromkeys(re.findall(r"\bMOUNTD_[A-Z_]+", text)) | dict.fromkeys(
        re.findall(r"\bMOUNTD_[A-Z_]+(?==)", DOCKERFILE.read_text())
    )
    values = {"MOUNTD_CACHE_DIR": "/x", "MOUNTD_METRICS": ":1"}
    known = {"MOUNTD_MOUNTPOINT", "MOUNTD_SOURCE"}
    options = read_environment({name: values.get(name, "1") for name in named if name not in known})
    assert {f"MOUNTD_{name.upper()}" for name in options} == set(named) - known
