"""How often Python's collector of cycles looks."""

import subprocess
import sys

from mountd.running.collector import YOUNG

SEEN = f"""
import gc
from mountd.running.collector import collect_seldom
collect_seldom()
before = gc.get_stats()[0]["collections"]
kept = [[] for _ in range({YOUNG // 2})]
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < {YOUNG})
print(gc.get_stats()[0]["collections"] - before)
"""


def test_a_burst_of_new_objects_is_not_looked_at_and_what_was_there_never_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEEN], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["True", "True", "0"]
