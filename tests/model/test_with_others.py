"""Others write to the remote, too: no word that is alive is ever missing, none is there twice, and
what was never seen here is never replaced.

MODEL_EXAMPLES=2000 MODEL_STEPS=60 make it a long run.
"""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mountd.vfs.names import LINK_SUFFIX
from tests.model.daemon import Daemon
from tests.model.reference import Path
from tests.model.shared import MovingWitness, Shared, Witness
from tests.model.steps import ENDS, SETTINGS, events, happen, user_step

PATHS: list[Path] = [("a",), ("b",), ("c",), ("d", "x"), ("d", "y")]
paths = st.sampled_from(PATHS)
# In d/, too, and only removed with all that is there: enough to be removed as a whole.
FURTHER = ("z", "v", "w")


def _busy(machine: Any) -> st.SearchStrategy[Path]:
    found = [
        path
        for path in PATHS
        if (change := machine.daemon.ledger.changes.get("/".join(path))) and not change.is_clean
    ]
    return st.sampled_from(found or PATHS)


# Where others do most harm: at what is not sent yet.
busy_paths = st.one_of(paths, st.runner().flatmap(_busy), st.runner().flatmap(_busy))


class WithOthers(RuleBasedStateMachine):
    """Versions are enforced: where they are not, the docs say what is lost."""

    @initialize(
        kind=st.sampled_from(["objects", "files", "trees", "moves", "moves"]),
        seeds=st.lists(paths, max_size=3),
        identifies=st.booleans(),
    )
    def begin(self, kind: str, seeds: list[Path], identifies: bool) -> None:
        is_files = kind != "objects"
        made = MovingWitness if kind == "moves" else Witness
        store = made(
            real_directories=is_files,
            server_copy=kind in ("objects", "moves"),
            tree_versions=kind in ("trees", "moves"),
            native_move=kind == "moves",
            removes_trees=kind == "moves",
            identifies=kind == "moves" and identifies,
        )
        self.shared = Shared(store)
        for name in FURTHER if kind == "moves" else FURTHER[:1]:
            store.seed(f"d/{name}", self.shared.word())
        for path in seeds:
            self.shared.put("/".join(path))

    @property
    def daemon(self) -> Daemon:
        return self.shared.daemon

    # -- the user

    @user_step(path=paths)
    def save(self, path: Path) -> None:
        self.shared.save(path)

    @user_step(path=paths, replaces=st.booleans())
    def link(self, path: Path, replaces: bool) -> None:
        self.shared.link(path, replaces=replaces)

    @user_step(path=paths, at_end=st.booleans())
    def patch(self, path: Path, at_end: bool) -> None:
        self.shared.patch(path, at_end=at_end)

    @user_step(path=paths)
    def unlink(self, path: Path) -> None:
        self.shared.unlink(path)

    @user_step(old=paths, new=paths)
    def rename(self, old: Path, new: Path) -> None:
        self.shared.rename(old, new)

    @user_step(there=st.booleans())
    def rename_directory(self, there: bool) -> None:
        self.shared.rename_directory(*(("d", "e") if there else ("e", "d")))

    @user_step()
    def remove_directory(self) -> None:
        self.shared.remove_tree("d", ("x", "y", *FURTHER))

    @user_step()
    def make_directory(self) -> None:
        self.shared.make_directory("d")

    @user_step(path=paths)
    def open_log(self, path: Path) -> None:
        self.shared.open_log(path)

    @user_step(which=st.integers(0, 3), closes=st.booleans())
    def write_log(self, which: int, closes: bool) -> None:
        if not self.shared.logs:
            return
        log = self.shared.logs[which % len(self.shared.logs)]
        self.shared.write_log(log)
        if closes:
            self.shared.close_log(log)

    # -- the others

    @user_step(path=paths, is_link=st.booleans())
    def others_put(self, path: Path, is_link: bool) -> None:
        self.shared.put("/".join(path) + LINK_SUFFIX * is_link)

    @user_step(path=paths, is_link=st.booleans())
    def others_remove(self, path: Path, is_link: bool) -> None:
        self.shared.vanish("/".join(path) + LINK_SUFFIX * is_link)

    # -- the daemon and the remote

    @rule(event=events)
    def happens(self, event: tuple[Any, ...]) -> None:
        happen(self.daemon, event)

    @rule(what=ENDS)
    def begins_anew(self, what: str) -> None:
        if what == "crash":
            self.shared.crash()
        elif what == "restart":
            self.shared.restart()
        else:
            self.daemon.forget(log.number for log in self.shared.logs)

    # -- what holds

    @invariant()
    def nothing_unforeseen(self) -> None:
        if hasattr(self, "shared"):
            self.daemon.check_log(*FORESEEN)
            assert not self.shared.store.violations

    def teardown(self) -> None:
        if not hasattr(self, "shared"):
            return
        try:
            self.shared.finish()
            self.daemon.check_log(*FORESEEN)
        finally:
            self.daemon.close()


FORESEEN = ("listing ", "conflict: ", "'")


def test_with_others_writing_too_every_living_word_is_on_the_remote() -> None:
    run_state_machine_as_test(WithOthers, settings=SETTINGS)


def test_a_directory_that_goes_to_and_fro_brings_nothing_back_twice() -> None:
    """Others have replaced what ours was in it: theirs stays, and is not taken for ours."""
    shared = Shared(Witness())
    try:
        shared.store.seed("d/z", shared.word())
        shared.save(("d", "y"))
        shared.daemon.drain()
        shared.put("d/y")
        for _ in range(2):
            shared.rename_directory("d", "e")
            shared.rename_directory("e", "d")
            shared.daemon.advance(2.0)
        shared.rename_directory("d", "e")
        shared.finish()
        assert sorted(shared.store.keys()) == ["d/", "d/y", "e/", "e/z"]
    finally:
        shared.daemon.close()


def test_a_link_that_replaces_ours_is_not_put_over_theirs() -> None:
    shared = Shared(Witness())
    try:
        shared.save(("a",))
        shared.put("a.rclonelink")
        shared.crash()
        shared.link(("a",), replaces=True)
        shared.finish()
        assert "a.rclonelink" in shared.store.keys()  # noqa: SIM118
    finally:
        shared.daemon.close()


@pytest.mark.parametrize("how", ["unlink", "rename", "link", "link over link"])
def test_what_others_put_in_the_place_of_what_a_killed_daemon_had_sent_stays(how: str) -> None:
    """No listing of its directory is kept: one is asked for before anything is replaced."""
    shared = Shared(Witness())
    try:
        shared.store.seed("d/z", shared.word())
        shared.save(("d", "x"))
        key = "d/y" + LINK_SUFFIX * (how == "link over link")
        if key == "d/y":
            shared.save(("d", "y"))
        else:
            shared.link(("d", "y"), replaces=False)
        shared.daemon.drain()
        shared.crash()
        shared.see(("d", "x"))
        shared.see(("d", "y"))
        shared.put(key)
        if how == "unlink":
            shared.unlink(("d", "y"))
        elif how == "rename":
            shared.rename(("d", "x"), ("d", "y"))
        else:
            shared.link(("d", "y"), replaces=True)
        shared.finish()
    finally:
        shared.daemon.close()


@pytest.mark.parametrize("is_link", [True, False])
def test_what_others_make_at_the_key_of_what_we_never_sent_is_seen_where_versions_prove(
    is_link: bool,
) -> None:
    shared = Shared(Witness(real_directories=True, tree_versions=True))
    try:
        if is_link:
            shared.link(("a",), replaces=False)
            shared.rename(("a",), ("b",))
            shared.save(("a",))
            shared.put("a.rclonelink")
        else:
            shared.save(("a",))
            shared.unlink(("a",))
            shared.put("a")
        shared.finish()
    finally:
        shared.daemon.close()
