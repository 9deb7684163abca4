"""scripts/make_sample.py: the dataset that a new user meets first."""

import hashlib
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_sample.py"
SUMS_DIGEST = "cd6f24635098907669acd22d0829f4ebf8b776fab94b91d991911639befa58c5"


def _make(directory: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, directory], check=True, timeout=30)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample") / "data"
    _make(directory)
    return directory


def test_every_machine_writes_the_same_bytes_and_names(sample: Path) -> None:
    """The list of names and digests is itself pinned: no Python or zlib may change a byte."""
    sums = (sample / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == SUMS_DIGEST


def test_the_sums_list_every_file_and_each_matches(sample: Path) -> None:
    listed = {}
    for line in (sample / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    files = {path for path in sample.rglob("*") if path.is_file()} - {sample / "SHA256SUMS"}
    assert set(listed) == {str(path.relative_to(sample)) for path in files}
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == listed[str(path.relative_to(sample))]


def test_it_has_what_breaks_careless_code(sample: Path) -> None:
    names = [path.name for path in (sample / "odd names").iterdir()]
    both_forms = [name for name in names if unicodedata.normalize("NFC", name) not in ("", name)]
    assert both_forms, "a decomposed name"
    assert any(ord(character) > 0xFFFF for name in names for character in name), "an emoji"
    assert any(" " in name for name in names)
    assert list((sample / "an empty directory").iterdir()) == []
    assert (sample / "empty.dat").stat().st_size == 0
    assert (sample / "weights" / "model.bin").stat().st_size == 5_000_000


def test_a_damaged_sample_is_replaced_whole(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    (directory / "images").mkdir(parents=True)
    (directory / "images" / "left over").write_bytes(b"?")
    _make(directory)
    assert not (directory / "images" / "left over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_times_are_the_same_everywhere(sample: Path) -> None:
    times = {path.stat().st_mtime for path in sample.rglob("*")}
    assert len(times) == 1
