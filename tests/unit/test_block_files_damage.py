"""Whatever happens to a block file, nobody ever reads wrong bytes from it."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountd_cache.block_files import BlockFiles
from mountd_cache.block_format import Layout, block_key

PAGE = 4096
BLOCK = 8 * PAGE
HEADER = Layout(BLOCK, PAGE).header_size
FILE = bytes(range(16))
OTHER = bytes(range(1, 17))
DATA = bytes(i * 13 + i // 255 & 255 for i in range(BLOCK))


def block_files(folder: Path) -> BlockFiles:
    blocks = BlockFiles(
        folder / "blocks",
        block_size=BLOCK,
        page_size=PAGE,
        limit_bytes=1 << 30,
        min_free_fraction=0.0,
    )
    blocks.scan()
    return blocks


def path_of(folder: Path, file_id: bytes, index: int) -> Path:
    return folder / "blocks" / file_id.hex()[:2] / f"{file_id.hex()}-{index:08x}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples: a whole block 0, and a block 1 of two runs of pages."""
    return tmp_path_factory.mktemp("damage")


def fill(folder: Path) -> None:
    shutil.rmtree(folder / "blocks", ignore_errors=True)
    blocks = block_files(folder)
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.write(FILE, 1, PAGE, DATA[PAGE : 3 * PAGE], BLOCK)
    assert blocks.write(FILE, 1, 3 * PAGE, DATA[3 * PAGE : 5 * PAGE], BLOCK)
    assert blocks.write(FILE, 1, 7 * PAGE, DATA[7 * PAGE :], BLOCK)
    blocks.close()


def read_all(blocks: BlockFiles, file_id: bytes, index: int) -> int:
    """Reads in several ways; how many hit. Never other bytes than those written."""
    hits = 0
    for start, end in [(0, BLOCK), (PAGE, 5 * PAGE), (2 * PAGE, 4 * PAGE), (7 * PAGE, BLOCK)]:
        found = blocks.read(file_id, index, start, end)
        assert found in (None, DATA[start:end])
        hits += found is not None
    for page in range(8):
        found = blocks.read(file_id, index, page * PAGE + 1, page * PAGE + 9)
        assert found in (None, DATA[page * PAGE + 1 : page * PAGE + 9])
        hits += found is not None
    return hits


@settings(max_examples=200, deadline=None)
@given(
    index=st.sampled_from([0, 1]),
    bit=st.integers(0, 400 * 8) | st.integers(0, (HEADER + BLOCK) * 8 - 1),
    opened_before=st.booleans(),
)
def test_a_flipped_bit_anywhere_is_never_read(
    folder: Path, index: int, bit: int, opened_before: bool
) -> None:
    fill(folder)
    blocks = block_files(folder)
    expected = 12 if index == 0 else 8
    if opened_before:
        assert read_all(blocks, FILE, index) == expected
    path = path_of(folder, FILE, index)
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
    hits = read_all(blocks, FILE, index)
    page = (bit // 8 - HEADER) // PAGE
    if bit // 8 >= HEADER and (index == 0 or page in (1, 2, 3, 4, 7)):
        assert hits < expected
        assert blocks.read(FILE, index, page * PAGE, page * PAGE + 1) is None
        blocks.maintain()
        assert not path.exists(), "a block that failed its CRC is kept"
    elif bit // 8 < 84 and not opened_before:
        assert hits == 0
    blocks.close()


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, HEADER + BLOCK - 1), opened_before=st.booleans())
def test_a_truncated_file_is_never_read(folder: Path, size: int, opened_before: bool) -> None:
    fill(folder)
    blocks = block_files(folder)
    if opened_before:
        read_all(blocks, FILE, 0)
    with open(path_of(folder, FILE, 0), "r+b") as file:
        file.truncate(size)
    assert read_all(blocks, FILE, 0) < 12
    blocks.close()


@pytest.mark.parametrize("span", [(0, HEADER), (HEADER, HEADER + BLOCK), (0, HEADER + BLOCK)])
def test_zeros_are_never_read(folder: Path, span: tuple[int, int]) -> None:
    fill(folder)
    path = path_of(folder, FILE, 0)
    content = bytearray(path.read_bytes())
    content[span[0] : span[1]] = bytes(span[1] - span[0])
    path.write_bytes(content)
    blocks = block_files(folder)
    assert read_all(blocks, FILE, 0) == 0
    blocks.maintain()
    assert not path.exists()
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert read_all(blocks, FILE, 0) == 12


def test_a_file_under_another_name_is_never_read(folder: Path) -> None:
    fill(folder)
    source = path_of(folder, FILE, 0)
    for file_id, index in ((FILE, 2), (OTHER, 0)):
        target = path_of(folder, file_id, index)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
        blocks = block_files(folder)
        assert read_all(blocks, file_id, index) == 0
        blocks.maintain()
        assert not target.exists()
        assert read_all(blocks, FILE, 0) == 12


def test_two_files_that_were_swapped_are_never_read(folder: Path) -> None:
    fill(folder)
    one, other = path_of(folder, FILE, 0), path_of(folder, FILE, 1)
    content = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(content)
    blocks = block_files(folder)
    assert read_all(blocks, FILE, 0) == read_all(blocks, FILE, 1) == 0


def test_a_block_of_another_length_is_begun_anew(folder: Path) -> None:
    fill(folder)
    blocks = block_files(folder)
    assert blocks.write(FILE, 0, 0, DATA[:5000], 5000)
    assert blocks.read(FILE, 0, 0, 5000) == DATA[:5000]
    assert blocks.read(FILE, 0, 0, 5001) is None


@given(st.binary(max_size=600), st.integers(0, 600), st.binary(max_size=8))
def test_no_header_makes_the_parser_fail(noise: bytes, at: int, patch: bytes) -> None:
    layout = Layout(BLOCK, PAGE)
    key = block_key(FILE, 0)
    good = bytearray(layout.pack(key, BLOCK, layout.empty()))
    good[at : at + len(patch)] = patch
    for header in (noise, noise.ljust(HEADER, b"\0"), bytes(good[:HEADER]).ljust(HEADER, b"\0")):
        parsed = layout.parse(key, header)
        assert parsed is None or parsed == (BLOCK, layout.empty())
