"""examples/: images are made and uploaded, a training reads them from a mount and writes to it.

The training needs torch, large and no dependency of mountd: `pip install torch==2.13.0 pillow`
into the environment that runs the tests. Without it that test is skipped.
"""

import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.mount.mounting import is_mounted
from tests.servers.s3.launch import S3Server

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.fuse, pytest.mark.server]
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("PIL") is None,
    reason="limit: torch==2.13.0 and pillow are not installed, the training example was not run",
)


def run(name: str, *arguments: object, environment: dict[str, str]) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=110, check=True
    )
    return done.stdout


def test_the_examples_are_programs() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        compile(path.read_text(), str(path), "exec")


@needs_torch
def test_a_training_reads_from_a_mount_and_its_checkpoints_arrive_whole(
    s3_server: S3Server, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")

    environment = os.environ | s3_server.environment()
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cache")]),
        "MOUNTD_ENDPOINT": environment.pop("AWS_ENDPOINT_URL"),
        "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
        "MOUNTD_CACHE_SIZE": "256MiB",
        "MOUNTD_RUNTIME_DIR": str(tmp_path),
    }
    s3_server.make_bucket("b")
    (tmp_path / "mnt").mkdir()
    run(
        *("make_images.py", tmp_path / "images", "s3://b/images", "--files", 48, "--side", 64),
        environment=environment,
    )
    assert len(s3_server.keys("b")) == 48
    train = ("train_images.py", "images", "--mount", "s3://b", tmp_path / "mnt", "--out", "runs/1")
    said = run(*train, environment=environment)
    assert len(re.findall(r"waited for data \d+\.\d% of the time", said)) == 2
    assert not is_mounted(tmp_path / "mnt")
    last = torch.load(io.BytesIO(s3_server.read("b", "runs/1/last.pt")), weights_only=True)
    assert last["epoch"] == 1
    assert not [key for key in s3_server.keys("b") if key.endswith(".partial")]
    said = run(*train, "--epochs", 1, environment=environment)
    assert "epoch 2:" in said  # it went on after the last checkpoint
    lines = s3_server.read("b", "runs/1/scalars.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
