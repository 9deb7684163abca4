"""How the rows of training are brought about."""

import random
from collections.abc import Sequence
from pathlib import Path

from tests.bench.readers import TouchTensors
from tests.bench.scenarios import ONE, ONE_KEY, SMALL, Scenario, small_keys
from tests.bench.stage import Stage
from tests.bench.train_reader import TrainEpoch
from tests.bench.workers import Outcome, run_readers
from tests.servers.s3.seeding import synthetic_bytes

BATCH = 32
COMPUTE_S = 0.064  # 500 pictures per second
LOCAL = "local-files"


def train_scenarios() -> Sequence[Scenario]:
    epochs = ("train-first", "train-second", "train-remount")
    return (Scenario(epochs, _epochs), Scenario(("train-tensors",), _tensors))


def _epoch(stage: Stage, number: int) -> TrainEpoch:
    """Every contestant gets the same order in the same round."""
    sizes = stage.plan.sizes
    keys = small_keys(sizes)[: sizes.train_files]
    order = random.Random(100 * stage.round + number).sample(keys, len(keys))
    return TrainEpoch(order, sizes.small_bytes, BATCH, COMPUTE_S)


def _epochs(stage: Stage) -> None:
    sizes = stage.plan.sizes
    stage.far()
    stage.start(SMALL)
    stage.measure("train-first", [_epoch(stage, 1)])
    if not stage.wants("train-second", "train-remount"):
        return
    local = _local_files(stage)
    stage.fill([_epoch(stage, 1)])  # what a slow one did not reach
    stage.far()
    _beside_local(stage, "train-second", _epoch(stage, 2), local)
    if stage.wants("train-remount"):
        stage.fill_cache([_epoch(stage, 1)], sizes.train_files * sizes.small_bytes)
        stage.far()
        stage.remount()
        stage.drop_page_cache()
        _beside_local(stage, "train-remount", _epoch(stage, 3), local)


def _beside_local(stage: Stage, case: str, epoch: TrainEpoch, local: Path) -> None:
    """The mount's epoch, then the same on the local disk from the same state of its pages."""
    if not stage.wants(case):
        return

    def beside_local(outcome: Outcome) -> float:
        if case == "train-remount":
            stage.drop_page_cache()
        alone = run_readers([epoch], local, time_s=stage.plan.time_s, at_end=lambda: None)
        stage.note = (
            f"waiting {outcome.waited_s / outcome.elapsed_s:.1%} of {outcome.elapsed_s:.1f} s, "
            f"local disk {alone.waited_s / alone.elapsed_s:.1%} of {alone.elapsed_s:.1f} s"
        )
        return outcome.operations / outcome.elapsed_s / (alone.operations / alone.elapsed_s)

    stage.measure(case, [epoch], beside_local)


def _local_files(stage: Stage) -> Path:
    """The same files on the disk of the caches, made once."""
    root = stage.plan.folder / LOCAL
    sizes = stage.plan.sizes
    for key in small_keys(sizes)[: sizes.train_files]:
        path = root / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(synthetic_bytes(key, 0, sizes.small_bytes))
    return root


def _tensors(stage: Stage) -> None:
    stage.far()
    stage.start(ONE)
    stage.measure("train-tensors", [TouchTensors(ONE_KEY, stage.plan.sizes.one_bytes)])
