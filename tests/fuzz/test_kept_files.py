"""What lies on the disk of the cache, spoilt by a disk, an older release or a thief.

With a checksum that is right for spoilt bytes, too: then what was made to lie may be believed, and
must still be refused in the documented way where it makes no sense.
"""

import base64
import json
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from mountd.config.logins import Login, find, save
from mountd.errors import CredentialsError
from mountd.remotes.s3_memory import ProvenFile
from mountd.sync.unfinished import UnfinishedUploads
from mountd.transfer.record import Record
from mountd.vfs.row_attributes import carried, denied_in, mtime_ns_in, shown_in, unpacked
from mountd.vfs.user_xattrs import decoded, edited
from mountd_cache.block_format import Layout
from mountd_cache.changes import Base, Change, ChangeKind, Content, Layer, Rows
from mountd_cache.durable_io import DISK
from mountd_cache.extent_map import ExtentMap
from mountd_cache.inode_numbers import InodeNumbers
from mountd_cache.journal_store import JournalStore, JournalUnreadable
from mountd_cache.listing import Listing, Row
from mountd_cache.log_format import (
    BadHeader,
    Header,
    SegmentTooNew,
    frame,
    frames,
    frames_anywhere,
    pack_header,
    unpack_header,
)
from mountd_cache.opening_order import OpeningOrder
from mountd_cache.pin_record import PinRecord, Wanted
from mountd_cache.records import (
    BadRecord,
    Dated,
    Freeze,
    Release,
    Synced,
    Torn,
    pack,
    pack_write,
    unpack,
)
from mountd_cache.sidecar import BadSidecar, pack_sidecar, unpack_sidecar
from tests.conftest import ExpectedLog
from tests.fuzz.hostile import few, fuzz, odd_texts, odd_values, read_or_refused, spoilt

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # each of these files is fsynced
_BASE = Base("d/k", '"e"', 5)
_CHANGE = Change("d/k", "d/", b"k", 7, ChangeKind.FILE, '"e"', _BASE, 3, 5, 1, 2, 3, 4)
_CONTENT = Content(3, _BASE, [Layer(0, 5, 0, ExtentMap.from_edges([0, 5]))], 1, 2)
_RECORDS = (
    pack(Rows(changes=(_CHANGE,), contents=(_CONTENT,), drop=(9,), forget=("d/x",))),
    pack_write(3, 0, 0, 5, 1, 0xFFFF),
    pack(Synced(7, 3, ((3, 0, 2),))),
    pack(Freeze(3, 1)),
    pack(Release(3, 1, _BASE, False, (_CHANGE,))),
    pack(Torn(3, 0, ((0, 5),))),
    pack(Dated(3, 1)),
)


@fuzz
@given(spoilt(*_RECORDS).filter(bool))
def test_a_spoilt_record_under_a_right_checksum_is_a_record_or_bad(payload: bytes) -> None:
    read_or_refused(lambda: unpack(payload), BadRecord)


_LOG = pack_header(Header(1, 0, 1, "boot")) + b"".join(
    frame(lsn, payload) for lsn, payload in enumerate(_RECORDS, 1)
)


@fuzz
@given(spoilt(_LOG))
def test_a_spoilt_log_yields_only_what_was_written_to_it(data: bytes) -> None:
    """Frames have checksums: whatever is read is one that was packed."""
    read_or_refused(lambda: unpack_header(data), BadHeader, SegmentTooNew)
    for lsn, payload, _ in frames(data, 1):
        assert payload == _RECORDS[lsn - 1]
    for lsn, payload in frames_anywhere(data, 0, 0):
        assert payload == _RECORDS[lsn - 1]


@fuzz
@given(spoilt(pack_header(Header(1, 0, 1, "boot"))[:80]))
def test_a_spoilt_header_under_a_right_checksum_is_refused_or_read(data: bytes) -> None:
    head = data[:76].ljust(76, b"\0")
    whole = (head + struct.pack("<I", crc32c(head))).ljust(4096, b"\0")
    read_or_refused(lambda: unpack_header(whole), BadHeader, SegmentTooNew)


@fuzz
@given(spoilt(pack_sidecar(_CONTENT, _CONTENT.layers[0], "d/k", "boot")[:400]), st.booleans())
def test_a_spoilt_sidecar_is_refused(page: bytes, is_summed: bool) -> None:
    if is_summed and len(page) > 20:
        page = page[:12] + struct.pack("<II", len(page) - 20, crc32c(page[20:])) + page[20:]
    read_or_refused(lambda: unpack_sidecar(page), BadSidecar)


_LISTING = Listing.build(
    [Row(b"a", False, 5, 1, '"e"', 7, '{"mode":"33188"}', False), Row(b"s", True, 0, 0, "", 8)]
).to_bytes()


@fuzz
@given(spoilt(_LISTING), st.booleans())
def test_a_spoilt_listing_is_refused_and_one_that_lies_raises_nothing_later(
    blob: bytes, is_summed: bool
) -> None:
    if is_summed and len(blob) > 16:
        blob = blob[:12] + struct.pack("=I", crc32c(blob[16:])) + blob[16:]
    found = read_or_refused(lambda: Listing.from_bytes(blob), ValueError)
    if found is not None:
        for i in range(len(found)):
            found.row(i)
            found.find(found.name(i))
        assert is_summed or found.to_bytes() == _LISTING


def _order() -> bytes:
    order = OpeningOrder()
    order.add(7, "d/", 0, 5)
    order.add(8, "e/", 1, 5)
    return order.to_bytes()


@fuzz
@given(spoilt(_order()), st.booleans())
def test_a_spoilt_order_of_an_epoch_is_refused(blob: bytes, is_summed: bool) -> None:
    if is_summed and len(blob) > 16:
        blob = blob[:12] + struct.pack("=I", crc32c(blob[16:])) + blob[16:]
    found = read_or_refused(lambda: OpeningOrder.from_bytes(blob), ValueError)
    for i in range(len(found or ())):
        assert found is not None
        _ = found[i]


_LAYOUT = Layout(1 << 20, 1 << 16)
_KEY = b"k" * 20


@fuzz
@given(spoilt(_LAYOUT.pack(_KEY, 5, _LAYOUT.empty())))
def test_a_spoilt_header_of_a_block_is_no_header(header: bytes) -> None:
    found = _LAYOUT.parse(_KEY, header)
    assert found is None or found == (5, _LAYOUT.empty())


def _summed(head: Callable[[bytes], bytes], body: bytes, is_summed: bool) -> bytes:
    return head(body) + body if is_summed else body


_WANTED = json.dumps({"version": 1, "paths": ["d"], "complete": []}).encode()


@few
@given(spoilt(_WANTED), st.binary(max_size=60), st.booleans())
def test_spoilt_pins_are_set_aside(body: bytes, kept: bytes, is_summed: bool) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name) / "pins"
        record = PinRecord(folder)
        (folder / "wanted").write_bytes(
            _summed(lambda body: b"%08x\n" % crc32c(body), body, is_summed)
        )
        (folder / "kept").write_bytes(kept)
        wanted = record.read_wanted()
        assert all(b".." not in path.split(b"/") and b"\0" not in path for path in wanted.paths)
        assert list(record.read_kept()) == []
        assert is_summed or wanted == Wanted()


@pytest.fixture(autouse=True)
def _set_aside_is_told(expected_log: ExpectedLog) -> None:
    expected_log("what was pinned can't be read")


_PROVEN = json.dumps({"s3://b": dict.fromkeys(("puts", "deletes", "proven_s"), 1)}).encode()


@few
@given(spoilt(_PROVEN), odd_values)
def test_what_is_spoilt_of_what_was_proved_is_proved_again(data: bytes, value: object) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = Path(name) / "s3-proven.json"
        file = ProvenFile(path)
        path.write_bytes(data)
        file.recall("s3://b")
        every = {each: value for each in file_fields()}
        path.write_text(json.dumps({"s3://b": every}))
        file.recall("s3://b")


def file_fields() -> list[str]:
    from dataclasses import fields

    from mountd.remotes.s3_probe import Proven

    return [each.name for each in fields(Proven)]


HEAD = b"mountd upload, format 1, %08x\n"
_UPLOAD = json.dumps({"content": 3, "layer": 0, "key": "k", "id": "x", "token": "t"})


@few
@given(spoilt(_UPLOAD.encode()), st.dictionaries(odd_texts, odd_values, max_size=4))
def test_a_spoilt_upload_is_not_gone_on_with(body: bytes, more: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name) / "uploads"
        folder.mkdir(mode=0o700)
        for number, text in enumerate((body, json.dumps(more).encode(), b"[" * 9000)):
            text = text.replace(b"\n", b"")
            (folder / f"{number}").write_bytes(
                b"mountd upload 1, %08x\n" % crc32c(text) + text + b"\n"
            )
            (folder / f"1{number}").write_bytes(text)
        lines = (body, json.dumps([3, more]).encode(), b"[3, {}]", b"[[]]", b"[" * 9000)
        (folder / "small-1").write_bytes(
            b"".join(b"\n%08x " % crc32c(text) + text for text in lines)
        )
        assert len(UnfinishedUploads.load(folder)) == 0


@fuzz
@given(spoilt(b'["part","p","v",0,5,7]', b'["rate",1e9]', b'["token","p","v","t"]'))
def test_a_spoilt_record_of_a_copy_is_left_out(text: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        with Record.open(Path(name), "a", "b") as record:
            folder = record.folder
        for path in folder.iterdir():
            if path.name != "lock":
                text = text.replace(b"\n", b"")
                path.write_bytes(path.read_bytes() + b"%08x %b\n" % (crc32c(text), text))
        with Record.open(Path(name), "a", "b") as record:
            assert 0 <= record.rate <= 1e12


@few
@given(spoilt(json.dumps({"server": "https://h", "user": "u", "password": "p"}).encode()))
def test_a_spoilt_sign_in_is_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = save(Login("https://h", "u", "u", "p"), Path(name) / "logins")
        path.write_bytes(data)
        read_or_refused(lambda: find("https://h", "u", Path(name) / "logins"), CredentialsError)


@fuzz
@given(spoilt(b'{"mode":"33188","uid":"1"}', b'{"user.a":"eA=="}', b"1700000000.000000001"))
def test_spoilt_attributes_of_a_row_are_unknown(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for read in (unpacked, carried, denied_in, shown_in, mtime_ns_in, decoded):
        read(text)
    for name, value in decoded(text).items():
        assert name.startswith(b"user.")
        assert isinstance(value, bytes)
    from mountd.errors import Unsupported

    read_or_refused(partial(edited, text, b"user.b", b"x"), Unsupported)


@fuzz
@given(st.binary(max_size=40))
def test_spoilt_inode_numbers_begin_at_the_clock(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = Path(name) / "inodes"
        path.write_bytes(data)
        assert 2 <= InodeNumbers(path).reserve(3) < 1 << 62


def _database() -> bytes:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        JournalStore(Path(name), disk=DISK).close()
        return (Path(name) / "journal.db").read_bytes()


_DATABASE = _database()


@few
@given(spoilt(_DATABASE[:400]))
def test_a_spoilt_database_is_unreadable_or_read(start: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        (Path(name) / "journal.db").write_bytes(start + _DATABASE[len(start) :])

        def read() -> None:
            store = JournalStore(Path(name), disk=DISK)
            try:
                store.meta()
                list(store.changes([]))
            finally:
                store.close()

        read_or_refused(read, OSError, JournalUnreadable)


LYING = (
    "bXRkbGlzdAoCAAAAwgPbwQIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIAAAAAAAAAAwAAAAAAAAAHAAAA"
    "AAAAAABbAABhAAAAAAAAAHMFAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIA"
    "AAADAAAAAWFzImUiAQAAAAEAAADPAAAAAAAAABAAAAB7Im1vZGUiOiIzMzE4OSJ9"
)


def test_a_row_whose_version_ends_behind_all_versions_raises_nothing() -> None:
    """Found by atheris, with a checksum that was made for it."""
    found = Listing.from_bytes(base64.b64decode(LYING))
    for i in range(len(found)):
        found.row(i)
        found.version(i)
