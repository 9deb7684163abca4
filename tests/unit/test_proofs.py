"""What is left of a write can be proved, whatever was written over it."""

from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.proofs import Proofs, Unproved, combined, is_proved
from mountd_cache.records import Cover

_SIZE = 60
_WRITES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=15)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_crc_of_two_pieces_is_that_of_the_whole(one: bytes, other: bytes) -> None:
    assert combined(crc32c(one), crc32c(other), len(other)) == crc32c(one + other)


def written(writes: list[tuple[int, int]], data: bytearray) -> Proofs:
    """Proofs of these writes, made as the journal does."""
    proofs = Proofs()
    for lsn, (start, size) in enumerate(writes, 1):
        end = start + size
        covers = [Cover(at, to, crc32c(data[at:to])) for at, to in proofs.replaced_by(start, end)]
        data[start:end] = bytes([lsn]) * size
        proofs.add(Unproved(lsn, start, end, crc32c(data[start:end]), volatile=True), covers)
    return proofs


def unproved(proofs: Proofs, data: bytearray) -> set[int]:
    return {
        write.lsn
        for write, left in proofs.volatile()
        if not is_proved(write, left, lambda start, end: bytes(data[start:end]))
    }


@given(_WRITES)
def test_each_byte_has_its_last_writer_and_all_are_proved(writes: list[tuple[int, int]]) -> None:
    data = bytearray(_SIZE)
    proofs = written(writes, data)
    seen = bytearray(_SIZE)
    for write, left in proofs.volatile():
        for start, end in left:
            assert not any(seen[start:end]), "two writers"
            seen[start:end] = bytes([write.lsn]) * (end - start)
    assert seen == data
    assert unproved(proofs, data) == set()
    assert bool(proofs) == bool(writes)


@given(_WRITES, st.integers(0, _SIZE - 1))
def test_a_wrong_byte_makes_its_writer_unproved_and_no_other(
    writes: list[tuple[int, int]], at: int
) -> None:
    data = bytearray(_SIZE)
    proofs = written(writes, data)
    writer = data[at]
    data[at] ^= 0x80
    assert unproved(proofs, data) == ({writer} if writer else set())


@given(_WRITES, st.integers(0, 15))
def test_what_was_synced_needs_no_proof_and_the_rest_still_has_one(
    writes: list[tuple[int, int]], lsn: int
) -> None:
    data = bytearray(_SIZE)
    proofs = written(writes, data)
    proofs.forget(lsn)
    assert {write.lsn for write, _ in proofs.volatile()} == {at for at in set(data) if at > lsn}
    assert unproved(proofs, data) == set()


@given(_WRITES, _WRITES, st.integers(0, 15))
def test_it_does_not_matter_that_a_replay_knows_of_fewer_writes(
    writes: list[tuple[int, int]], more: list[tuple[int, int]], lsn: int
) -> None:
    """Those that the database has were durable, and the process that wrote did not know yet."""
    data, live, replayed = bytearray(_SIZE), Proofs(), Proofs()
    for at, (start, size) in enumerate([*writes, *more], 1):
        end = start + size
        if at == len(writes) + 1:
            replayed.forget(lsn)
        covers = [Cover(at_, to, crc32c(data[at_:to])) for at_, to in live.replaced_by(start, end)]
        data[start:end] = bytes([at]) * size
        for proofs in (live, replayed):
            write = Unproved(at, start, end, crc32c(data[start:end]), volatile=True)
            proofs.add(write, covers)
    assert unproved(live, data) == set()
    assert unproved(replayed, data) == set()


def test_without_its_covers_a_write_is_not_proved() -> None:
    data = bytearray(b"aaaabbbb")
    proofs = Proofs()
    proofs.add(Unproved(1, 0, 6, crc32c(b"aaaaaa"), volatile=True))
    proofs.add(Unproved(2, 4, 8, crc32c(b"bbbb"), volatile=True))
    assert unproved(proofs, data) == {1}


def test_a_write_that_is_given_up_takes_no_other_along() -> None:
    data = bytearray(_SIZE)
    proofs = written([(0, 10), (10, 10), (5, 2), (30, 5)], data)
    proofs.give_up(8, 9)
    assert {write.lsn for write, _ in proofs.volatile()} == {2, 3, 4}
    assert unproved(proofs, data) == set()


def test_writes_of_this_boot_need_no_verifying() -> None:
    proofs = Proofs()
    proofs.add(Unproved(1, 0, 6, 0))
    assert list(proofs.volatile()) == []
    assert proofs
