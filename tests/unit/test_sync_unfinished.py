"""Uploads that are under way, as they are kept for another process."""

import json
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c
from typing_extensions import Buffer

from mountd.remotes.base import Upload
from mountd.sync.unfinished import Unfinished, UnfinishedUploads
from mountd_cache.changes import Base, Change, ChangeKind, Content, Layer
from mountd_cache.durable_io import DISK

SIZE = 100
STATE = Unfinished(
    *(7, 1, "d/n\udcff\u00fc", "journal-7-1-3-0badcafe-1", 5, {"mode": "33188"}, 9, SIZE)
)


def load(folder: Path) -> UnfinishedUploads:
    return UnfinishedUploads.load(folder / "uploads")


def test_another_process_goes_on_with_what_was_noted(tmp_path: Path) -> None:
    first = load(tmp_path)
    upload = first.going_on(STATE, Upload("id"))
    assert upload.progress is not None
    upload.progress("token one")
    upload.progress("token two")
    second = load(tmp_path)
    assert second.all() == [replace(STATE, token="token two")]
    assert second.going_on(STATE, Upload("id")).resume == "token two"
    other = replace(STATE, id="journal-7-1-4-0badcafe-1")
    assert second.going_on(other, Upload("id")).resume == ""


def test_what_came_to_its_end_is_forgotten(tmp_path: Path) -> None:
    uploads = load(tmp_path)
    uploads.note(STATE, "token")
    uploads.forget(STATE.content, "another token")
    assert len(load(tmp_path)) == 1
    uploads.note(STATE, "")
    assert (len(uploads), len(load(tmp_path))) == (0, 0)
    assert list((tmp_path / "uploads").iterdir()) == []


class CountedKey(str):
    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedKey.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_those_of_a_key_are_found_without_a_look_at_all_others() -> None:
    uploads = UnfinishedUploads()
    for number in range(1000):
        uploads.note(replace(STATE, content=number, key=CountedKey(f"f{number // 2}")), "token")
    CountedKey.compared = 0
    assert {upload.content for upload in uploads.at("f250")} == {500, 501}
    assert uploads.at("none") == []
    assert CountedKey.compared < 20
    uploads.note(replace(STATE, content=500, key="moved"), "token")
    uploads.forget(501)
    assert (uploads.at("f250"), [upload.content for upload in uploads.at("moved")]) == ([], [500])


class AskingKey(str):
    """Somebody else looks in the midst of whatever is done with it."""

    ask: Callable[[], object] = staticmethod(lambda: None)

    def __hash__(self) -> int:
        self.ask()
        return super().__hash__()

    __eq__ = str.__eq__


def test_an_upload_whose_key_is_another_now_is_known_all_the_while() -> None:
    uploads = UnfinishedUploads()
    key = AskingKey("from")
    uploads.note(replace(STATE, key=key), "token")
    found: list[Unfinished | None] = []
    key.ask = lambda: found.append(uploads.of(STATE.content))
    uploads.note(replace(STATE, key="to"), "token")
    del key.ask
    assert found
    assert None not in found
    assert [upload.key for upload in (*uploads.at("from"), *uploads.at("to"))] == ["to"]


def test_a_spoilt_file_is_removed_and_the_others_count(tmp_path: Path) -> None:
    uploads = load(tmp_path)
    uploads.note(STATE, "token")
    whole = (tmp_path / "uploads" / "7").read_bytes()
    spoilt = {
        "1": b"",
        "2": whole[:-2],
        "3": whole.replace(b"token", b"tokem", 1),
        "4": whole,  # under another's name
        "5": b"\xff" * 100,
        "6": b"x" * 100_000,
    }
    for name, data in spoilt.items():
        (tmp_path / "uploads" / name).write_bytes(data)
    assert load(tmp_path).all() == [replace(STATE, token="token")]
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == ["7"]


@pytest.mark.parametrize(
    "wrong",
    [
        replace(STATE, token="\n"),
        replace(STATE, token="x" * 3000),
        replace(STATE, id="none"),
        replace(STATE, id="journal-8-1-3-0badcafe-1"),
        replace(STATE, key=""),
    ],
)
def test_what_makes_no_sense_is_not_believed(tmp_path: Path, wrong: Unfinished) -> None:
    load(tmp_path).note(wrong, wrong.token or "token")
    assert len(load(tmp_path)) == 0


def test_without_a_folder_it_is_known_as_long_as_the_process_lives() -> None:
    uploads = UnfinishedUploads()
    uploads.note(STATE, "token")
    assert uploads.of(7) == replace(STATE, token="token")


def of_file(*layers: Layer) -> tuple[Change, Content]:
    key = STATE.key
    change = Change(key, "d/", b"n", 2, ChangeKind.FILE, content=7, attributes=STATE.attributes)
    return change, Content(7, Base(key, "v", 10), list(layers))


def written(number: int, size: int, floor: int, *extents: tuple[int, int]) -> Layer:
    layer = Layer(number, size, floor)
    for start, end in extents:
        layer.extents.add(start, end)
    return layer


def test_only_the_frozen_state_of_that_file_is_gone_on_with() -> None:
    change, content = of_file(
        written(0, 50, 10), written(1, SIZE, 50, (0, 100)), Layer(2, 100, 100)
    )
    assert STATE.depth_in(change, content) == 2
    assert STATE.depth_in(replace(change, key="other"), content) == 0
    assert STATE.depth_in(replace(change, attributes={}), content) == 0
    top = Content(7, None, content.layers[:2])
    assert STATE.depth_in(change, top) == 0  # it takes writes
    assert replace(STATE, size=99).depth_in(change, content) == 0
    assert STATE.depth_in(change, Content(7, None, [content.layers[2], Layer(3, 1, 1)])) == 0


def test_it_is_worth_it_while_half_of_it_is_in_the_file() -> None:
    frozen = written(1, SIZE, 0, (0, 100))
    for rewritten, is_worth_it in ((0, True), (50, True), (51, False), (100, False)):
        _, content = of_file(frozen, written(2, SIZE, 100, (0, rewritten)))
        assert STATE.is_worth_it(content) is is_worth_it
    _, truncated = of_file(frozen, written(2, 0, 0))
    assert not STATE.is_worth_it(truncated)


def test_what_else_lies_in_the_folder_keeps_nobody_from_mounting(tmp_path: Path) -> None:
    load(tmp_path).note(STATE, "token")
    (tmp_path / "uploads" / "9").mkdir()
    assert load(tmp_path).all() == [replace(STATE, token="token")]


def test_a_folder_that_others_may_enter_is_not_read(
    tmp_path: Path, expected_log: Callable[[str], None]
) -> None:
    load(tmp_path).note(STATE, "token")
    (tmp_path / "uploads").chmod(0o755)
    expected_log("uploads will not be gone on with")
    assert load(tmp_path).all() == []


class _SlowDisk:
    """Writes a file once `may_write` is set."""

    def __init__(self) -> None:
        self.writes, self.may_write = threading.Event(), threading.Event()

    def write_file(self, path: Path, data: Buffer) -> None:
        self.writes.set()
        assert self.may_write.wait(10)
        DISK.write_file(path, data)

    def replace(self, source: Path, target: Path) -> None:
        raise NotImplementedError

    def fsync_dir(self, path: Path) -> None:
        raise NotImplementedError


def test_the_loop_does_not_wait_for_a_disk_that_is_slow(tmp_path: Path) -> None:
    disk = _SlowDisk()
    uploads = UnfinishedUploads.load(tmp_path / "uploads", disk)
    with ThreadPoolExecutor(2) as threads:
        noted = threads.submit(uploads.note, STATE, "token")
        assert disk.writes.wait(10)
        asked = threads.submit(uploads.all)
        try:
            assert asked.result(5) == [replace(STATE, token="token")]
        finally:
            disk.may_write.set()
        noted.result(10)
    assert len(load(tmp_path)) == 1


SUM = "0" * 32


def small(content: int) -> Unfinished:
    return replace(STATE, content=content, id=f"journal-{content}-1-3-0badcafe-1")


def test_small_ones_are_known_to_another_process_until_they_are_settled(tmp_path: Path) -> None:
    first = load(tmp_path)
    for content in (7, 8, 9):
        first.completes(small(content), SUM)
    first.forget(8, "")
    second = load(tmp_path)
    assert second.all() == [replace(small(content), md5=SUM) for content in (7, 9)]
    second.forget(7)
    second.completes(small(10), SUM)
    assert [each.content for each in load(tmp_path).all()] == [9, 10]


def test_killed_at_any_byte_only_the_last_small_one_is_unknown(tmp_path: Path) -> None:
    uploads, path = load(tmp_path), tmp_path / "uploads" / "small-1"
    uploads.completes(small(7), SUM)
    before = path.read_bytes()
    uploads.completes(small(8), SUM)
    after = path.read_bytes()
    for length in range(len(before), len(after)):
        path.write_bytes(after[:length])
        again = load(tmp_path)
        assert [each.content for each in again.all()] == [7]
    again.completes(small(9), SUM)
    assert [each.content for each in load(tmp_path).all()] == [7, 9]


def test_the_notes_of_many_small_ones_stay_small_and_lose_none(tmp_path: Path) -> None:
    uploads, path = load(tmp_path), tmp_path / "uploads" / "small-1"
    uploads.completes(small(1), SUM)
    largest = 0
    for content in range(2, 6000):
        uploads.completes(small(content), SUM)
        uploads.forget(content)
        largest = max(largest, path.stat().st_size)
    assert [each.content for each in load(tmp_path).all()] == [1]
    assert largest < 1.1 * (1 << 20)
    uploads.forget(1)
    assert path.stat().st_size == 0


def test_many_that_stay_noted_are_not_written_anew_with_each(tmp_path: Path) -> None:
    # As where a remote refuses each of them.
    uploads, path = load(tmp_path), tmp_path / "uploads" / "small-1"
    written_anew, file = 0, 0
    for content in range(1, 9000):
        uploads.completes(small(content), SUM)
        before, file = file, path.stat().st_ino
        written_anew += before != file
    assert written_anew < 10
    assert len(load(tmp_path)) == 8999
    for content in range(1, 9000):
        uploads.forget(content)
    assert load(tmp_path).all() == []
    assert path.stat().st_size == 0


def test_a_disk_that_takes_half_of_the_notes_anew_keeps_those_that_were_there(
    tmp_path: Path,
) -> None:
    uploads = load(tmp_path)
    for content in range(1, 41):
        uploads.completes(small(content), SUM)
    uploads = load(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        uploads.completes(small(41), SUM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.content for each in load(tmp_path).all()] == list(range(1, 41))
    uploads.completes(small(42), SUM)
    assert [each.content for each in load(tmp_path).all()] == list(range(1, 43))


def test_what_is_noted_is_not_lost_when_the_next_process_is_killed_at_once(tmp_path: Path) -> None:
    first = load(tmp_path)
    first.completes(small(7), SUM)
    first.completes(small(8), SUM)
    load(tmp_path)
    load(tmp_path).completes(small(9), SUM)
    assert [each.content for each in load(tmp_path).all()] == [7, 8, 9]


def test_small_ones_that_a_former_version_noted_one_by_one_are_taken_over(tmp_path: Path) -> None:
    large = replace(STATE, size=9 << 20)
    load(tmp_path).note(large, "token")
    noted = tmp_path / "uploads" / "7"
    text = json.dumps({**json.loads(noted.read_bytes().split(b"\n")[1]), "size": 5, "token": ""})
    text = text.replace('"md5": ""', f'"md5": "{SUM}"')
    noted.write_bytes(f"mountd upload, format 1, {crc32c(text.encode()):08x}\n{text}\n".encode())
    for _ in range(2):
        assert load(tmp_path).all() == [replace(STATE, size=5, md5=SUM)]
    assert not noted.exists()
    load(tmp_path).forget(7)
    assert load(tmp_path).all() == []


def test_where_the_disk_takes_no_note_a_small_one_is_known_here(tmp_path: Path) -> None:
    uploads = load(tmp_path)
    (tmp_path / "uploads").rmdir()
    uploads.completes(small(7), SUM)
    assert uploads.of(7) == replace(small(7), md5=SUM)
    uploads.forget(7)
    assert len(uploads) == 0
