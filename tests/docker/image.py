"""Builds docker/Dockerfile without docker: its instructions, one by one, in a chroot.

    python -m tests.docker.image FOLDER

FROM is what debian:bookworm-slim is made from, by mmdebstrap. As root; it takes minutes and fetches
Debian's and Python's packages. Understands what that Dockerfile uses, and nothing else. What the
image says of itself (ENV, ENTRYPOINT, ...) stands in FOLDER/image.json afterwards, its files are in
FOLDER/root.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker/Dockerfile"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """One FROM and what follows it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    settings: dict[str, object] = field(default_factory=dict)


Step = Callable[[Stage, str, dict[str, Stage]], None]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(`RUN`, its words) in order; continued lines are joined, comments left out."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    for line in joined.splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), re.sub(r"\s+", " ", rest.strip())


def build(folder: Path) -> Stage:
    """The last stage. CalledProcessError where a command fails."""
    folder.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    for name, words in instructions(DOCKERFILE.read_text()):
        print(f"--- {name} {words}", flush=True)
        if name == "FROM":
            image, _, alias = words.partition(" AS ")
            stage = Stage(folder / (alias or "root"))
            stages[alias] = stage
            _make_base(image, stage.root)
        else:
            _STEPS[name](stage, words, stages)
    described = {"environment": stage.environment, **stage.settings}
    (folder / "image.json").write_text(json.dumps(described, indent=1))
    return stage


def _make_base(image: str, root: Path) -> None:
    suite = re.fullmatch(r"debian:(\w+)-slim", image)
    assert suite, image
    # What Debian's own images of that name are: the required packages and apt, without manuals.
    command = ["mmdebstrap", "--quiet", "--variant=minbase", suite[1], str(root)]
    for what in ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"):
        command.append(f"--dpkgopt=path-exclude={what}")
    subprocess.run(command, check=True)


_IN_CHROOT = """
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
[ ! -e "$3" ] || { cp "$3" "$1/run/machine.crt"; export PIP_CERT=/run/machine.crt; }
mount --bind /etc/resolv.conf "$1/etc/resolv.conf"
exec chroot "$1" sh -ec "$2"
"""


def _run(stage: Stage, words: str, _: object) -> None:
    # In namespaces of its own, so that nothing stays mounted.
    (stage.root / "etc/resolv.conf").touch()
    # Where this machine finds the registries; in a build by docker they are found by themselves.
    certificates = os.environ.get("PIP_CERT", "/nonexistent")
    proxies = {name: text for name, text in os.environ.items() if name.lower().endswith("_proxy")}
    inside = f"cd {stage.folder} && {words}"
    unshare = ["unshare", "--mount", "--pid", "--fork"]
    subprocess.run(
        [*unshare, "sh", "-ec", _IN_CHROOT, "sh", str(stage.root), inside, certificates],
        check=True,
        env={**proxies, **stage.environment, **stage.arguments},
    )


def _copy(stage: Stage, words: str, stages: dict[str, Stage]) -> None:
    source, *names = shlex.split(words)
    base = ROOT
    if source.startswith("--from="):
        base = stages[source.removeprefix("--from=")].root
    else:
        names.insert(0, source)
    *given, target = names
    into = stage.root / os.path.join(stage.folder, target).lstrip("/")
    for name in given:
        what = base / name.lstrip("/")
        if what.is_dir():
            ignored = shutil.ignore_patterns("__pycache__") if base == ROOT else None
            shutil.copytree(what, into, symlinks=True, dirs_exist_ok=True, ignore=ignored)
        else:
            is_folder = target.endswith("/")
            (into if is_folder else into.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy2(what, into)


def _work_in(stage: Stage, words: str, _: object) -> None:
    stage.folder = words
    (stage.root / words.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _set_environment(stage: Stage, words: str, _: object) -> None:
    stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(words))


def _set_argument(stage: Stage, words: str, _: object) -> None:
    name, _equals, value = words.partition("=")
    stage.arguments[name] = os.environ.get(name, value)


def _setting(name: str) -> "Step":
    def keep(stage: Stage, words: str, _: object) -> None:
        stage.settings[name] = json.loads(words[words.index("[") :])

    return keep


_STEPS: "dict[str, Step]" = {
    "RUN": _run,
    "COPY": _copy,
    "WORKDIR": _work_in,
    "ENV": _set_environment,
    "ARG": _set_argument,
    **{name.upper(): _setting(name) for name in ("entrypoint", "cmd", "healthcheck")},
}


def main(arguments: Sequence[str]) -> int:
    build(Path(arguments[0]).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
