"""A failure is the error that it is: never a missing file, never an empty directory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mountd.errors import ContainerMissing, Denied, RemoteError, Unreachable
from mountd.remotes.base import RemoteStore
from tests.contract.targets import Broken, Limit, Target
from tests.fakes.stopwatch import fastest_s

CALLS: list[tuple[str, Callable[[RemoteStore], object]]] = [
    ("stat a file", lambda store: store.stat("d/file")),
    ("stat a directory", lambda store: store.stat("d/")),
    ("stat the root", lambda store: store.stat("")),
    ("list", lambda store: list(store.list("d/"))),
    ("read", lambda store: store.read("d/file", 0, 1, "")),
    ("read a version", lambda store: store.read("d/file", 0, 1, '"0123456789abcdef"')),
]
EXPECTED: dict[Broken, type[RemoteError]] = {
    Broken.WRONG_KEYS: Denied,
    Broken.MISSING_CONTAINER: ContainerMissing,
    Broken.DEAD_PORT: Unreachable,
}


@contextmanager
def broken_store(target: Target, how: Broken) -> Iterator[RemoteStore]:
    store = target.broken_store(how)
    if store is None:
        pytest.skip(f"{how.name} makes no sense for this remote")
    try:
        yield store
    finally:
        store.close()


@pytest.mark.parametrize("how", list(Broken), ids=lambda how: how.name)
@pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[name for name, _ in CALLS])
def test_a_broken_remote_is_never_a_missing_file(
    target: Target, how: Broken, call: Callable[[RemoteStore], object]
) -> None:
    with broken_store(target, how) as store:

        def fails() -> None:
            with pytest.raises(EXPECTED[how]):
                call(store)

        bound_s = 60.0 if Limit.REFUSES_SLOWLY in target.limits else 6.0
        assert fastest_s(fails, bound_s, tries=2) < bound_s
