"""What a daemon asks of its own mount by way of a child."""

import sys
from pathlib import Path

import pytest

from mountd.running.own_mount import hand_over_dirty_pages

WITHIN_S = 30.0


def test_a_hand_over_whose_child_ends_early_is_no_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over_dirty_pages(tmp_path, set(), WITHIN_S)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="failed"):
        hand_over_dirty_pages(tmp_path, set(), WITHIN_S)
