"""`target`: every remote in turn, each test in a place of its own. `open_store`: closed after.

`CONTRACT_TARGETS=memory,file` in the environment runs only these.
"""

import os
import re
import uuid
from collections.abc import Callable, Iterator

import pytest

from mountd.remotes.base import RemoteStore
from tests.contract.targets import MakeTarget, Target, TargetFactory, all_factories

OpenStore = Callable[..., RemoteStore]

_WANTED = [name for name in os.environ.get("CONTRACT_TARGETS", "").split(",") if name]
_PARAMS = [
    pytest.param(factory, id=factory.name, marks=[pytest.mark.server] * factory.is_server)
    for factory in all_factories()
    if not _WANTED or factory.name in _WANTED
]


@pytest.fixture(scope="session", params=_PARAMS)
def make_target(request: pytest.FixtureRequest) -> Iterator[MakeTarget]:
    factory: TargetFactory = request.param
    with factory.running() as make:
        yield make


@pytest.fixture
def target(make_target: MakeTarget, request: pytest.FixtureRequest) -> Target:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.lower()).removeprefix("test-")
    return make_target(f"{words[:30].strip('-')}-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def open_store(target: Target) -> Iterator[OpenStore]:
    """`target.store`, and every store that came from it is closed at the end."""
    opened: list[RemoteStore] = []

    def opener(page_size: int | None = None) -> RemoteStore:
        opened.append(target.store(page_size))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()
