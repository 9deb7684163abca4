"""The metadata cache against a dictionary, whatever the order."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from mountd_cache.metadata_cache import MetadataCache
from tests.unit.test_metadata_cache import NOW, listing


class CacheMachine(RuleBasedStateMachine):
    """Against a dictionary: with restarts, a tiny memory and forgetting in every order."""

    keys = st.sampled_from(["", "a/", "a/b/", "a/c/", "b/"])
    times = st.sampled_from([0.0, NOW - 10, NOW])

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, tuple[int, float]] = {}
        self.count = 0

    @initialize(folder=st.uuids())
    def begin(self, folder: object) -> None:
        self.folder = Path(os.environ["MACHINE_FOLDER"]) / f"{folder}-{id(self)}"
        self.open()

    def open(self) -> None:
        self.cache = MetadataCache(self.folder, wall_clock=lambda: NOW, memory_limit_bytes=900)

    @rule(key=keys, at=times)
    def put(self, key: str, at: float) -> None:
        self.count += 1
        self.cache.put(key, listing("x", size=self.count), at)
        self.expected[key] = (self.count, at)

    @rule(key=keys, at=times)
    def touch(self, key: str, at: float) -> None:
        self.cache.touch(key, at)
        if key in self.expected:
            self.expected[key] = (self.expected[key][0], at)

    @rule(key=keys)
    def forget(self, key: str) -> None:
        self.cache.forget(key)
        self.expected.pop(key, None)

    @rule(key=keys)
    def forget_below(self, key: str) -> None:
        self.cache.forget_below(key)
        self.expected = {k: v for k, v in self.expected.items() if not k.startswith(key)}

    @rule(key=keys)
    def expire(self, key: str) -> None:
        self.cache.expire(key)
        for known, (size, _) in self.expected.items():
            if known.startswith(key):
                self.expected[known] = (size, 0.0)

    @rule()
    def flush(self) -> None:
        assert self.cache.flush()

    @rule()
    def restart(self) -> None:
        self.cache.close()
        self.open()

    @rule(key=keys)
    def get(self, key: str) -> None:
        cached = self.cache.get(key)
        expected = self.expected.get(key)
        if cached is None or expected is None:
            assert (cached is None) == (expected is None)
            return
        assert cached.listing.size(0) == expected[0]
        # A time that only waits for the disk may read as expired, never as fresher.
        assert cached.fetched_at in (expected[1], 0.0)

    def teardown(self) -> None:
        self.cache.close()


def test_the_cache_behaves_as_a_dictionary_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINE_FOLDER", str(tmp_path))
    run_state_machine_as_test(
        CacheMachine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )
