"""Others write to the remote, too: no word that is alive is ever missing, none is there twice, and
what was never seen here is never replaced.

MODEL_EXAMPLES=2000 MODEL_STEPS=60 make it a long run.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.reference import Path
from tests.model.shared import Shared, Witness
from tests.model.test_alone import SETTINGS

paths = st.sampled_from([("a",), ("b",), ("c",), ("d", "x"), ("d", "y")])


class WithOthers(RuleBasedStateMachine):
    """Versions are enforced: where they are not, the docs say what is lost."""

    @initialize(kind=st.sampled_from(["objects", "files"]), seeds=st.lists(paths, max_size=3))
    def begin(self, kind: str, seeds: list[Path]) -> None:
        is_files = kind == "files"
        store = Witness(real_directories=is_files, server_copy=not is_files)
        self.shared = Shared(store)
        store.seed("d/z", self.shared.word())
        for path in seeds:
            self.shared.put("/".join(path))

    # -- the user

    @rule(path=paths)
    def save(self, path: Path) -> None:
        self.shared.save(path)

    @rule(path=paths, at_end=st.booleans())
    def patch(self, path: Path, at_end: bool) -> None:
        self.shared.patch(path, at_end=at_end)

    @rule(path=paths)
    def unlink(self, path: Path) -> None:
        self.shared.unlink(path)

    @rule(old=paths, new=paths)
    def rename(self, old: Path, new: Path) -> None:
        self.shared.rename(old, new)

    @rule(there=st.booleans())
    def rename_directory(self, there: bool) -> None:
        self.shared.rename_directory(*(("d", "e") if there else ("e", "d")))

    @rule(path=paths)
    def open_log(self, path: Path) -> None:
        self.shared.open_log(path)

    @precondition(lambda self: self.shared.logs)
    @rule(which=st.integers(0, 3), closes=st.booleans())
    def write_log(self, which: int, closes: bool) -> None:
        log = self.shared.logs[which % len(self.shared.logs)]
        self.shared.write_log(log)
        if closes:
            self.shared.close_log(log)

    # -- the others

    @rule(path=paths)
    def others_put(self, path: Path) -> None:
        self.shared.put("/".join(path))

    @rule(path=paths)
    def others_remove(self, path: Path) -> None:
        self.shared.vanish("/".join(path))

    # -- the daemon and the remote

    @rule(seconds=st.sampled_from([0.1, 1.5, 1.5, 5.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.shared.daemon.advance(seconds)

    @rule(what=st.sampled_from(["drain", "fold", "checkpoint", "expire", "expire", "forget"]))
    def daemon(self, what: str) -> None:
        daemon = self.shared.daemon
        if what == "forget":
            daemon.forget(log.number for log in self.shared.logs)
            return
        {
            "drain": daemon.drain,
            "fold": daemon.fold,
            "checkpoint": daemon.checkpoint,
            "expire": daemon.expire,
        }[what]()

    @rule(noticed=st.booleans())
    def outage(self, noticed: bool) -> None:
        self.shared.daemon.outage(noticed=noticed)

    @rule()
    def heal(self) -> None:
        self.shared.daemon.heal()

    @rule(
        operation=st.sampled_from(
            ["put", "put", "delete", "copy", "identify", "read", "make_dir", "remove_dir"]
        ),
        kind=st.sampled_from(["before", "after", "slow down", "hang", "answer held", "cut"]),
    )
    def fault(self, operation: Any, kind: str) -> None:
        self.shared.daemon.fault(operation, kind)

    @rule()
    def release_holds(self) -> None:
        self.shared.daemon.release_holds()

    @rule()
    def crash(self) -> None:
        self.shared.crash()

    @rule()
    def restart(self) -> None:
        self.shared.restart()

    # -- what holds

    @invariant()
    def nothing_unforeseen(self) -> None:
        if hasattr(self, "shared"):
            self.shared.daemon.check_log(*FORESEEN)
            assert not self.shared.store.violations

    def teardown(self) -> None:
        if not hasattr(self, "shared"):
            return
        try:
            self.shared.finish()
            self.shared.daemon.check_log(*FORESEEN)
        finally:
            self.shared.daemon.close()


FORESEEN = ("listing ", "conflict: ", "'")


def test_with_others_writing_too_every_living_word_is_on_the_remote() -> None:
    run_state_machine_as_test(WithOthers, settings=SETTINGS)
