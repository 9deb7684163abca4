"""Kills processes that write to a journal, and looks at what is left: run as a program.

    python -m tests.crash.journal_victim FOLDER SEED KILLS SECONDS

Each victim does random steps and says which one it has done; threads of it sync and checkpoint.
It is killed at any time, as is another one that opens the journal. What is found then must be the
state after the last step that was done, or after the next one. Says how many were killed.
"""

import mmap
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from mountd_cache.journal import Journal
from tests.crash.journal_model import Actor, layer_bytes, snapshot

_STEPS = 3000
_LEAST_STEPS = 400


def main() -> int:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    kills, deadline = int(sys.argv[3]), time.monotonic() + float(sys.argv[4])
    done = steps = 0
    # On a busy machine most are killed before they do anything: then there are more of them.
    while (done < kills or steps < _LEAST_STEPS) and time.monotonic() < deadline:
        steps += one_life(folder / str(done), seed + done)
        done += 1
    print(done, steps)
    return 0


def one_life(folder: Path, seed: int) -> int:
    rng = random.Random(f"kill {seed}")
    shared = mmap.mmap(-1, 8)
    kill_at(rng.uniform(0, 0.08), lambda: victim(folder / "journal", seed, shared), shared)
    if rng.random() < 0.3:
        kill_at(rng.uniform(0, 0.01), lambda: Journal.open(folder / "journal"))
    step = int.from_bytes(shared[:], "little")
    journal = Journal.open(folder / "journal")
    if step:
        assert not journal.recovery.torn, journal.recovery
        compare(journal, folder / "reference", seed, step - 1)
    journal.close()
    return step


def victim(folder: Path, seed: int, shared: mmap.mmap) -> None:
    journal = Journal.open(folder)
    actor = Actor(journal, random.Random(seed))
    shared[:] = (1).to_bytes(8, "little")
    background: list[threading.Thread] = []
    for step in range(_STEPS):
        actor.step()
        shared[:] = (step + 2).to_bytes(8, "little")
        if not any(thread.is_alive() for thread in background):
            background = work_for_threads(journal)


def work_for_threads(journal: Journal) -> list[threading.Thread]:
    """Never ended: the process is killed before, or the next begins with it."""
    mark, checkpoint = journal.begin_sync(None), journal.begin_checkpoint()
    threads = [threading.Thread(target=journal.make_durable, args=(mark,), daemon=True)]
    if checkpoint is not None:
        run = journal.write_checkpoint
        threads.append(threading.Thread(target=run, args=(checkpoint,), daemon=True))
    for thread in threads:
        thread.start()
    return threads


def kill_at(delay_s: float, run: Callable[[], object], shared: mmap.mmap | None = None) -> None:
    """Forks a process that runs this and kills it, `delay_s` after it has begun with its steps."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
            signal.pause()
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    while shared is not None and not any(shared) and os.waitpid(pid, os.WNOHANG)[0] == 0:
        time.sleep(0.001)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the victim failed before it was killed"


def compare(found: Journal, reference: Path, seed: int, step: int) -> None:
    """`found` has what the same steps did to a journal that nobody killed."""
    actor = Actor(Journal.open(reference), random.Random(seed))
    for _ in range(step):
        actor.step()
    before, bytes_before = snapshot(actor.journal), all_bytes(actor.journal)
    state, data = snapshot(found), all_bytes(found)
    if state == before and data == bytes_before:
        return
    actor.step()
    after, bytes_after = snapshot(actor.journal), all_bytes(actor.journal)
    assert state in (before, after), f"neither the state of step {step} nor of the next: {state}"
    for key, each in data.items():
        # A write that was under way may have replaced a part of the bytes.
        other = bytes_after.get(key, []) if state == before else each
        expected = bytes_before[key] if state == before else bytes_after[key]
        for at, value in enumerate(each):
            allowed = {expected[at], other[at] if at < len(other) else None}
            assert value in allowed, (key, at, value, allowed)


def all_bytes(journal: Journal) -> dict[tuple[int, int], list[int | None]]:
    return {
        (content.id, layer.number): layer_bytes(journal, content, layer.number)
        for content in journal.ledger.contents.values()
        if content.id in journal.ledger.owner
        for layer in content.layers
    }


if __name__ == "__main__":
    sys.exit(main())
