"""What tests of the journal do again and again."""

from typing import Any

from mountd_cache.changes import BASE, ZERO, Base, Change, ChangeKind, Content, Rows
from mountd_cache.journal import Journal


def file_change(journal: Journal, key: str, **fields: Any) -> Change:
    name = key.rpartition("/")[2].encode()
    directory = key[: len(key) - len(name)]
    fields.setdefault("kind", ChangeKind.FILE)
    fields.setdefault("sequence", journal.next_sequence())
    return Change(key, directory, name, hash(key) & 0xFFFF, **fields)


def create(journal: Journal, key: str, data: bytes = b"", base: Base | None = None) -> Content:
    """A file with a content of its own."""
    content = journal.new_content(base, base.size if base else 0, 1)
    change = file_change(journal, key, content=content.id)
    journal.commit(Rows(changes=(change,), contents=(content,)))
    if data:
        journal.write(content.id, 0, data, 2)
    return content


def read(journal: Journal, key: str, depth: int | None = None) -> bytes:
    """All bytes of a file; those of the base are `B`."""
    content = journal.ledger.content_of(journal.ledger.changes[key])
    assert content is not None
    size = content.size
    if depth is not None:
        size = content.layers[depth - 1].size if depth else content.base.size  # type: ignore[union-attr]
    fill = {BASE: b"B", ZERO: b"\0"}
    return b"".join(
        fill[piece.layer] * (piece.end - piece.start)
        if piece.layer < 0
        else journal.read(content.id, piece.layer, piece.start, piece.end)
        for piece in content.pieces(0, size, depth)
    )


def sync(journal: Journal, contents: list[int] | None = None) -> None:
    mark = journal.begin_sync(contents)
    journal.make_durable(mark)
    journal.end_sync(mark)


def checkpoint(journal: Journal) -> None:
    found = journal.begin_checkpoint()
    assert found is not None
    journal.write_checkpoint(found)
    journal.end_checkpoint(found)
