"""Files that are renamed while the remote moves them, with every answer that may be lost."""

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_sync_model import Moving, World, run

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
_SETTLED = [("save", "a"), ("save", "b"), ("save", "d/x"), ("drain",)]
_file = st.sampled_from(["a", "b", "c", "d/x", "a", "c"])
_kind = st.sampled_from(["before", "after", "hang", "hang", "hang", "cut", "cut"])
_fault = st.sampled_from(["move_file", "move_file", "move_file", "identify", "write"])
_USER = [
    st.tuples(st.just("rename"), _file, _file),
    st.tuples(st.just("rename"), _file, _file),
    st.tuples(st.just("rename"), st.just("a"), st.just("c")),
    st.tuples(st.just("rename"), st.just("c"), st.just("a")),
    st.tuples(st.just("save"), _file),
    st.tuples(st.just("append"), _file),
    st.tuples(st.just("unlink"), _file),
    st.tuples(st.just("mode"), _file),
]
_WORLD = [
    st.tuples(st.just("fault"), _fault, _kind),
    st.tuples(st.just("fault"), st.just("move_file"), _kind),
    st.tuples(st.just("wait"), st.sampled_from([1.5, 1.5, 3.0, 40.0])),
    st.tuples(st.just("wait"), st.just(1.5)),
    st.tuples(st.just("release")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("drain")),
]
_FOREIGN = [
    st.tuples(st.just("foreign"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("vanish"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("refresh")),
]
# A file is being moved while the user goes on, and then the answer comes, or not, or a kill.
_BURST = st.tuples(
    st.tuples(st.just("fault"), st.just("move_file"), _kind),
    st.tuples(st.just("rename"), _file, _file),
    st.tuples(st.just("wait"), st.sampled_from([1.5, 1.5, 3.0])),
    st.lists(st.one_of(*_USER), max_size=3),
    st.sampled_from([("kill",), ("kill",), ("release",), ("drain",), ("wait", 40.0)]),
)


def _flat(bursts: Sequence[Sequence[Any]]) -> list[Any]:
    found: list[Any] = []
    for fault, rename, wait, more, end in bursts:
        found += [fault, rename, wait, *more, end]
    return found


_bursts = st.lists(_BURST, max_size=4).map(_flat)
_settings = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_settings
@given(
    steps=st.one_of(_bursts, _bursts, st.lists(st.one_of(*_USER, *_WORLD), max_size=25)),
    real=st.booleans(),
)
def test_whatever_the_user_does_while_files_are_moved_the_remote_becomes_it(
    steps: Sequence[Sequence[Any]], real: bool
) -> None:
    world = World(Moving(real_directories=real))
    run(world, [*_SETTLED, *steps], looks=False)
    assert world.on_remote() == world.files, world.log
    assert not [c for c in world.journal.ledger.changes.values() if not c.is_clean]
    assert not world.open_moves.all()


@_settings
@given(steps=st.lists(st.one_of(*_USER, *_WORLD, *_FOREIGN), max_size=25))
def test_while_files_are_moved_others_lose_nothing_and_neither_does_the_user(
    steps: Sequence[Sequence[Any]], expected_log: Any
) -> None:
    expected_log("conflict")
    expected_log("changed on the remote")
    world = World(Moving())
    run(world, [*_SETTLED, *steps], looks=True)
    on_remote = b" ".join(world.on_remote().values())
    unsent = [c for c in world.journal.ledger.changes.values() if not c.is_clean]
    kept = b""
    for change in unsent:
        content = world.journal.ledger.content_of(change)
        if content is None:
            continue
        for layer in content.layers:
            for start, end in layer.extents:
                kept += bytes(world.journal.read_once(content.id, layer.number, start, end))
    assert not {t for t in world.living if t not in on_remote and t not in kept}, world.log
