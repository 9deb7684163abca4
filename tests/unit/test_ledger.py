"""The ledger's indexes against looking through everything."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mountd_cache.changes import (
    BASE,
    ZERO,
    Base,
    Change,
    ChangeKind,
    ChangeState,
    Content,
    Layer,
    Rows,
)
from mountd_cache.ledger import Ledger

_DIRECTORIES = ("", "a/", "a/b/", "aa/")
_KEYS = tuple(f"{directory}{name}" for directory in _DIRECTORIES for name in ("x", "y"))
_BASES = st.one_of(st.none(), st.builds(Base, st.sampled_from(_KEYS), st.just("v"), st.just(9)))


def change(key: str, number: int, **fields: Any) -> Change:
    directory = key.rpartition("/")[0]
    directory += "/" if directory else ""
    kind = fields.pop("kind", ChangeKind.FILE)
    return Change(key, directory, key[len(directory) :].encode(), number, kind, **fields)


@st.composite
def steps(draw: st.DrawFn) -> list[Rows]:
    """As a file system does them: a content has one change at most, an inode as well."""
    made, owners = [], dict[int, str]()
    for _ in range(draw(st.integers(1, 12))):
        changes, contents, forget, drop = [], [], [], []
        for key in draw(st.lists(st.sampled_from(_KEYS), max_size=3, unique=True)):
            kind = draw(st.sampled_from((ChangeKind.FILE, ChangeKind.FILE, ChangeKind.GONE_FILE)))
            free = [id_ for id_ in range(1, 6) if owners.get(id_, key) == key]
            content = draw(st.sampled_from([0, *free])) if kind is ChangeKind.FILE else 0
            owners = {id_: owner for id_, owner in owners.items() if owner != key}
            if content:
                owners[content] = key
            number = 100 + _KEYS.index(key)
            state = draw(st.sampled_from(ChangeState))
            fields = {"kind": kind, "content": content, "base": draw(_BASES), "state": state}
            changes.append(change(key, number, **fields))
        for id_ in draw(st.lists(st.integers(1, 5), max_size=2, unique=True)):
            contents.append(Content(id_, draw(_BASES), [Layer(0, 5, 0)]))
        put = {made.key for made in changes}
        if draw(st.booleans()):
            forget = [key for key in draw(st.lists(st.sampled_from(_KEYS))) if key not in put]
            owners = {id_: owner for id_, owner in owners.items() if owner not in forget}
        if draw(st.booleans()):
            taken = set(owners) | {content.id for content in contents}
            drop = [id_ for id_ in range(1, 6) if id_ not in taken][:2]
        made.append(Rows(tuple(changes), tuple(forget), tuple(contents), tuple(drop)))
    return made


def check(ledger: Ledger, changes: dict[str, Change], contents: dict[int, Content]) -> None:
    assert ledger.changes == changes
    assert ledger.contents == contents
    shown: dict[str, dict[bytes, Change]] = {}
    gone: dict[str, dict[str, Change]] = {}
    depends: dict[str, set[str]] = {}
    for key, each in changes.items():
        if each.is_gone:
            gone.setdefault(each.directory, {})[key] = each
        else:
            shown.setdefault(each.directory, {})[each.name] = each
        content = contents.get(each.content)
        for base in (each.base, content.base if content else None):
            if base is not None and base.key != key:
                depends.setdefault(base.key, set()).add(key)
    assert ledger.shown == shown
    assert ledger.gone == gone
    assert ledger.depends == depends
    assert ledger.by_number == {ch.number: ch for ch in changes.values() if not ch.is_gone}
    assert ledger.owner == {ch.content: key for key, ch in changes.items() if ch.content}
    assert list(ledger.unsent()) == [ch for ch in changes.values() if not ch.is_clean]
    for directory in _DIRECTORIES:
        below = {ch.key for ch in ledger.below(directory)}
        assert below == {key for key in changes if key.startswith(directory) and key != directory}


@given(steps())
def test_the_indexes_say_what_the_changes_say(steps: list[Rows]) -> None:
    ledger, changes, contents = Ledger(), dict[str, Change](), dict[int, Content]()
    for rows in steps:
        ledger.apply(rows)
        for key in rows.forget:
            changes.pop(key, None)
        for each in rows.changes:
            changes[each.key] = each
        for id_ in rows.drop:
            contents.pop(id_, None)
        contents |= {content.id: content for content in rows.contents}
        # Puts and re-puts come in an order of their own; what they say does not depend on it.
        changes = {key: changes[key] for key in ledger.changes if key in changes} | changes
        check(ledger, changes, contents)


def test_a_content_moves_from_change_to_change() -> None:
    ledger, content = Ledger(), Content(1, Base("old", "v", 5), [Layer(0, 5, 5)])
    ledger.apply(Rows(changes=(change("a/x", 1, content=1),), contents=(content,)))
    assert ledger.depends == {"old": {"a/x"}}
    gone = change("a/x", 1, kind=ChangeKind.GONE_FILE)
    ledger.apply(Rows(changes=(change("a/y", 1, content=1), gone)))
    assert ledger.owner == {1: "a/y"}
    assert ledger.depends == {"old": {"a/y"}}
    ledger.apply(Rows(contents=(Content(1, Base("new", "w", 6), [Layer(0, 6, 6)]),)))
    assert ledger.depends == {"new": {"a/y"}}
    ledger.apply(Rows(drop=(1,)))
    assert ledger.content_of(ledger.changes["a/y"]) is None
    assert ledger.depends == {}


def test_two_changes_that_show_the_same_name_do_not_break_it() -> None:
    ledger = Ledger()
    one, other = change("x", 1), Change("X", "", b"x", 2, ChangeKind.FILE)
    ledger.apply(Rows(changes=(one,)))
    ledger.apply(Rows(changes=(other,)))
    ledger.apply(Rows(forget=("X",)))
    ledger.apply(Rows(forget=("x",)))
    assert ledger.shown == {}
    assert ledger.by_number == {}


def test_size_and_time_are_those_of_the_content_where_there_is_one() -> None:
    ledger, content = Ledger(), Content(1, None, [Layer(0, 0, 0)])
    made = change("x", 1, content=1, size=7, mtime_ns=8)
    ledger.apply(Rows(changes=(made,), contents=(content,)))
    ledger.write(1, 5, 10, 99)
    assert (ledger.size_of(made), ledger.mtime_ns_of(made)) == (10, 99)
    without = change("y", 2, size=7, mtime_ns=8)
    assert (ledger.size_of(without), ledger.mtime_ns_of(without)) == (7, 8)


_LAYER_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 30), st.integers(0, 10)),
        st.tuples(st.just("truncate"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("freeze"), st.just(0), st.just(0)),
        st.tuples(st.just("release"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@given(st.integers(0, 20), st.integers(0, 20), _LAYER_STEPS)
def test_a_content_has_the_bytes_that_a_plain_file_would_have(
    base_size: int, size: int, steps: list[tuple[str, int, int]]
) -> None:
    """Of layers upon layers over a base, whose first `depth` may become the base."""
    base = bytes(range(100, 100 + base_size))
    size = min(size, base_size)
    content = Content(1, Base("k", "v", base_size), [Layer(0, size, size)])
    plain, data, number = bytearray(base[:size]), dict[int, bytearray](), 0
    frozen = list[bytes]()
    for value, (step, at, length) in enumerate(steps, 1):
        if step == "write" and length:
            file = data.setdefault(content.top.number, bytearray(100))
            file[at : at + length] = bytes([value]) * length
            content.top.write(at, at + length)
            plain += bytes(max(0, at - len(plain)))
            plain[at : at + length] = bytes([value]) * length
        elif step == "truncate":
            content.top.truncate(at)
            plain = plain[:at] + bytes(max(0, at - len(plain)))
        elif step == "freeze":
            number += 1
            content.freeze(number)
            frozen.append(bytes(plain))
        elif step == "release" and frozen:
            base = frozen.pop(0)
            assert content.rest_adds_nothing(1) <= (base == plain)
            content = content.released(1, Base("k", "w", len(base)))
        assert content.size == len(plain)
        for depth, expected in enumerate([*frozen, bytes(plain)], 1):
            assert assembled(content, depth, base, data, len(expected)) == expected


def assembled(
    content: Content, depth: int, base: bytes, data: dict[int, bytearray], size: int
) -> bytes:
    made, at = b"", 0
    for piece in content.pieces(0, size, depth):
        assert piece.start == at
        at = piece.end
        if piece.layer == BASE:
            made += base[piece.start : piece.end]
        elif piece.layer == ZERO:
            made += bytes(piece.end - piece.start)
        else:
            made += data[piece.layer][piece.start : piece.end]
    assert at == size
    return made
