"""What compose.yaml and the Kubernetes manifests say, as starts of containers.py: as much of an
engine and of a kubelet as ours need."""

import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.docker.containers import DEFAULT_CAPABILITIES, ROOT, Container, Host

FOLDER = ROOT / "docker"
ENTRYPOINT = ("tini", "-s", "--", "mountd")  # the Dockerfile's; test_files.py compares them
SIDECAR = (*ENTRYPOINT, "sidecar")
_IMAGE = "mountd"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """`${NAME:?why}` as compose takes it from its own environment."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: variables[found[1]], text)


def start_service(
    host: Host, name: str, variables: Mapping[str, str], changed: Mapping[str, str] | None = None
) -> Container:
    """A service of compose.yaml. `changed`: environment that is other than what stands there."""
    service = documents("compose.yaml")[0]["services"][name]
    environment = {
        key: filled_in(text, variables) for key, text in service.get("environment", {}).items()
    }
    user = int(service["user"].partition(":")[0])
    kept = () if service.get("cap_drop") == ["ALL"] else DEFAULT_CAPABILITIES
    volumes = []
    for volume in service["volumes"]:
        if volume["type"] == "volume":
            source = named_volume(host, volume["source"])
            volumes.append(f"{source}:{volume['target']}:private")
        else:
            source = host.path(volume["source"])
            volumes.append(f"{source}:{volume['target']}:{volume['bind']['propagation']}")
    inline = service["build"].get("dockerfile_inline", "")
    return host.start(
        *(SIDECAR if service.get("image") == _IMAGE else service["command"]),
        volumes=volumes,
        environment=environment | dict(changed or {}),
        user=user,
        capabilities=(*kept, *service.get("cap_add", ())),
        prepare="\n".join(re.findall(r"^RUN (.*)$", inline, re.MULTILINE)),
    )


def named_volume(host: Host, name: str, mode: str = "1777") -> str:
    """A folder of the host that is not shared, and stays."""
    folder = host.folder.parent / f"volume-{name}"
    if not folder.exists():
        host.run("install", "-d", "-m", mode, str(folder))
    return str(folder)


def start_pods_container(
    host: Host, pod: Mapping[str, Any], container: Mapping[str, Any], **given: Any
) -> Container:
    """One container of a Pod. `given`: `secret` for envFrom, and `changed` environment."""
    environment = dict(given.get("secret", {})) if "envFrom" in container else {}
    environment |= {one["name"]: one["value"] for one in container.get("env", ())}
    security = container.get("securityContext", {})
    dropped = security.get("capabilities", {}).get("drop") == ["ALL"]
    capabilities = () if dropped else DEFAULT_CAPABILITIES
    return host.start(
        *container.get("command", SIDECAR),
        volumes=[_volume(host, pod, mount) for mount in container["volumeMounts"]],
        environment=environment | given.get("changed", {}),
        user=security.get("runAsUser", 0),
        capabilities=None if security.get("privileged") else capabilities,
    )


def _volume(host: Host, pod: Mapping[str, Any], mount: Mapping[str, Any]) -> str:
    (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
    how = {"Bidirectional": "rshared", "HostToContainer": "rslave", None: "private"}
    propagation = how[mount.get("mountPropagation")]
    if propagation == "private":
        mode = "777" if "emptyDir" in volume else "755"
        of_node = volume.get("hostPath", {}).get("path", "").replace("/", "-")
        source = named_volume(host, of_node or volume["name"], mode)
    else:
        is_of_node = "hostPath" in volume
        path = volume["hostPath"]["path"] if is_of_node else f"/emptydir-{volume['name']}"
        source = host.path(path, "755" if is_of_node else "777")
    return f"{source}:{mount['mountPath']}:{propagation}"
