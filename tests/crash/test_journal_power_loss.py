"""The journal after power cuts, at any call and with any part of what was not fsynced."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from mountd_cache.journal import Journal
from tests.conftest import ExpectedLog
from tests.crash.journal_model import Actor, History, check
from tests.fakes.forgetful_disk import ForgetfulDisk, PowerCut

_SEEDS = 8
_LIVES = 30  # per seed


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_what_was_synced_is_there_and_nothing_is_that_nobody_wrote(
    seed: int, tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("is not sent: torn by a power loss")
    expected_log("files were set aside")  # data files of contents that the log lost
    for life in range(_LIVES):
        run_of_crashes(random.Random(seed * 1000 + life), tmp_path / str(life))


def run_of_crashes(rng: random.Random, root: Path) -> None:
    """Several lives of one journal, each ended by a power cut, maybe while it is recovering."""
    folder, history, journal_id = root / "0", None, None
    folder.mkdir(parents=True, mode=0o700)
    for boot in range(4):
        cut = rng.randrange(400) if rng.random() < 0.9 else None
        disk = ForgetfulDisk(folder, rng, cut_after=cut)
        with suppress(PowerCut):
            actor = one_boot(folder, disk, rng, str(boot), history, journal_id)
            history, journal_id = actor.history, actor.journal.id
            with suppress(PowerCut):
                actor.run(rng.randrange(60))
                while rng.random() < 0.4:
                    actor.journal.abandon()  # killed, and started again on the same boot
                    journal = Journal.open(folder, disk=disk, boot_id=str(boot), recycle_from=1)
                    actor = Actor(journal, rng, history)
                    actor.run(rng.randrange(30))
            actor.journal.abandon()
        folder = root / str(boot + 1)
        disk.crash(folder)
    journal = Journal.open(folder, boot_id="last")
    if history is not None:
        check(journal, history)
    journal.close()


def one_boot(
    folder: Path,
    disk: ForgetfulDisk,
    rng: random.Random,
    boot_id: str,
    history: History | None,
    journal_id: str | None,
) -> Actor:
    journal = Journal.open(folder, disk=disk, boot_id=boot_id, recycle_from=1)
    if history is not None:
        check(journal, history)
        assert journal.id == journal_id, "a power cut was taken for damage"
    return Actor(journal, rng)
