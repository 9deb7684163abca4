"""The commands of README.md and docs/, run as they stand there; each page by a newcomer with a home
of their own, who has `mountd` on the PATH, and keys for a server that stands in for every cloud."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.cli import COMMANDS
from tests.mount.doc_blocks import BEFORE, NOT_RUN, ROOT, RUN_BY, blocks, is_run_here, pages
from tests.mount.mounting import is_mounted
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

RCLONE = str(Path(sys.executable).parent / "rclone")
OF_RCLONE = ("docs/config.md", "docs/ai-platforms.md")
PAGES = sorted({block.page for block in blocks() if is_run_here(block)} - set(OF_RCLONE))
# What is an example in the pages, and what stands for it here. In this order.
EXAMPLES = (
    (r"\bscripts/run (?=\S+ /storage)", "mountd mount "),
    (r"\.venv/bin/(?=mountd|python)", ""),
    (r"\b(gs|az)://", "s3://"),
    (r"(?<![\w.:/])/(?=(storage|data)\b)", "{home}/"),
    (r"metrics=:9323", "metrics=127.0.0.1:0"),
    # 1: a check of this machine is not well, or a mount of others on it.
    (r"(?m)^(mountd doctor [^#\n]*)", r"{{ \1; }} || test $? = 1 "),
)


class Newcomer:
    """Runs a page's blocks, one shell for each, as `set -e` would."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        programs = home / "bin"
        programs.mkdir(parents=True)
        wrapper = f'#!/bin/sh\nexec {sys.executable} -P -m mountd "$@"\n'
        (programs / "mountd").write_text(wrapper)
        (programs / "mountd").chmod(0o755)
        (programs / "python").symlink_to(sys.executable)
        (home / "run").mkdir(mode=0o700)
        (home / "results").mkdir()
        (home / "results/metrics.json").write_text("{}\n")
        self.storage = home / "storage"
        self.storage.mkdir()
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", f"{ROOT}:{ROOT / 'cache'}"),
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "MOUNTD_RUNTIME_DIR": str(home / "run"),
            "MOUNTD_CACHE_DIR": str(home / "cache"),
            "MOUNTD_CACHE_SIZE": "256MiB",
            **environment,
        }

    def types(self, block: str) -> tuple[int, str]:
        """Exit code and output, which goes to a file: a daemon would keep a pipe open."""
        out = self.home / "out.txt"
        with out.open("w") as file:
            done = subprocess.run(
                ["bash", "-e", "-c", block],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=90,
                check=False,
            )
        return done.returncode, out.read_text()

    def leaves(self) -> None:
        for path in sorted(self.home.glob("storage*/**/"), reverse=True):
            if is_mounted(path):
                self.types(f"mountd umount --abandon {path}")
                subprocess.run(["fusermount3", "-uz", str(path)], check=False, timeout=10)


def here(text: str, home: Path) -> str:
    for example, replacement in EXAMPLES:
        text = re.sub(example, replacement.format(home=home), text)
    return text


def seed(server: S3Server, texts: list[str]) -> None:
    """A file below each prefix that the page names, so that there is something to see."""
    for text in texts:
        for bucket, prefix in re.findall(r"\b(?:s3|gs|az)://([\w.-]+)/?([\w./-]*)", text):
            server.put(bucket, f"{prefix.strip('/')}/hello.txt".lstrip("/"), b"hello\n")


@pytest.fixture
def newcomer(s3_server: S3Server, tmp_path: Path) -> Iterator[Newcomer]:
    found = Newcomer(tmp_path / "home", s3_server.environment())
    yield found
    found.leaves()


@pytest.mark.fuse
@pytest.mark.server
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_ends_well(
    newcomer: Newcomer, s3_server: S3Server, page: str
) -> None:
    found = [block for block in blocks() if block.page == page and is_run_here(block)]
    before_each = [BEFORE.get((page, block.number), "true") for block in found]
    seed(s3_server, [*before_each, *(block.text for block in found)])
    for before, block in zip(before_each, found, strict=True):
        assert newcomer.types(here(before, newcomer.home))[0] == 0, before
        code, said = newcomer.types(here(block.text, newcomer.home))
        assert code == 0, f"{page}: {block.text}\n{said}"


@pytest.mark.fuse
@pytest.mark.server
@pytest.mark.parametrize("page", OF_RCLONE)
def test_every_command_of_a_page_with_rclones_variables_ends_well(
    newcomer: Newcomer, nextcloud_server: NextcloudServer, page: str
) -> None:
    nextcloud_server.mkdir("datasets")
    nextcloud_server.mkdir("datasets/images")
    nextcloud_server.put("datasets/images/hello.txt", b"hello\n")
    for block in (block for block in blocks() if block.page == page):
        text = as_rclone_has_it(block.text, nextcloud_server)
        code, said = newcomer.types(here(text, newcomer.home))
        assert code == 0, f"{page}: {block.text}\n{said}"
    assert (newcomer.storage / "datasets/images/hello.txt").read_bytes() == b"hello\n"


def as_rclone_has_it(text: str, server: NextcloudServer) -> str:
    obscured = subprocess.run(
        [RCLONE, "--config", "/dev/null", "obscure", server.password],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.strip()
    for example, replacement in {
        "https://cloud.example": server.url,
        "files/USER": f"files/{server.user}",
        "RSHARE_USER=USER": f"RSHARE_USER={server.user}",
        "PASS=...": f"PASS={obscured}",
    }.items():
        text = text.replace(example, replacement)
    return text


def test_whoever_runs_blocks_in_our_place_is_there_and_names_its_page() -> None:
    for page, test in RUN_BY.items():
        assert (ROOT / page).exists(), page
        assert page in (ROOT / test).read_text(), test
    for part, why in NOT_RUN.items():
        assert [block for block in blocks() if part in block.text], part
        for test in re.findall(r"tests/\S+\.py", why):
            assert (ROOT / test).exists(), test


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_every_command_in_a_sentence_is_one(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = (ROOT / "docs/commands.md").read_text()
    for line in re.findall(r"`mountd ([^`]+)`", text):
        name, *rest = line.split()
        if not name.islower() or name.startswith("-"):
            continue  # COMMAND, --help
        assert name in COMMANDS, f"{path.name}: mountd {line}"
        section = commands.split(f"\n## mountd {name}\n")[1].split("\n## ")[0]
        for flag in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert flag in section or flag == "--help", f"{path.name}: mountd {line}"


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_command_stands_in_a_block_that_is_run(path: Path) -> None:
    """Or it is the form of one, with names in capitals."""
    for text in re.findall(r"^```\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        commands = rf"mountd (?:{'|'.join(COMMANDS)})|setfattr|getfattr|curl|systemctl|\$"
        typed = re.findall(rf"^(?:{commands}) .*", text, re.MULTILINE)
        forms = [line for line in typed if re.search(r"\b[A-Z]{4,}\b", line)]
        assert [line for line in typed if line not in forms] == []


def test_there_is_something_to_run() -> None:
    assert len([block for block in blocks() if is_run_here(block)]) >= 6
