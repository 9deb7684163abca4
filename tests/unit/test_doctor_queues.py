"""What doctor says of queues: served, without a daemon, and set aside."""

from pathlib import Path
from typing import Any

import pytest

from mountd.cli.doctor_queues import check_idle, check_quarantine, check_queue
from mountd.cli.findings import Finding
from mountd.cli.idle_queues import IdleQueue
from mountd_cache.sidecar import PAGE

FOLDER = Path("/c/s3-lab-1")


def of_queue(counts: dict[str, Any], **status: object) -> Finding:
    (found,) = check_queue({"mountpoint": "/s", "queue": counts, **status})
    return found


def test_a_queue_that_is_sent_or_being_sent_is_well() -> None:
    assert of_queue({}).found == "everything is on the remote"
    found = of_queue({"pending": 2, "bytes": 2048})
    assert (found.state, found.found) == ("ok", "2 files (2.0 KiB) wait for the remote")
    assert list(check_queue({"mountpoint": "/s", "queue": None})) == []


@pytest.mark.parametrize(
    ("counts", "cache", "words"),
    [
        ({"failed": 1}, {}, "--retry"),
        ({"conflicts": 2}, {}, "keep the version you want"),
        ({"pending": 1}, {"volatile": True}, "mountd flush /s"),
    ],
)
def test_a_queue_that_needs_somebody_comes_with_what_to_do(
    counts: dict[str, Any], cache: dict[str, Any], words: str
) -> None:
    found = of_queue(counts, cache=cache)
    assert found.state == "warning"
    assert words in found.fix


def test_a_queue_without_a_daemon_says_how_it_is_sent() -> None:
    (found,) = check_idle([IdleQueue(FOLDER, "s3://lab", 3, 1, 2048)])
    assert (found.state, found.check) == ("warning", "queue of s3://lab")
    assert found.found == "3 files (2.0 KiB) wait in /c/s3-lab-1, 1 of them failed"
    assert "mountd mount s3://lab MOUNTPOINT -o cache_dir=/c" in found.fix


def test_a_journal_that_cannot_be_read_is_a_problem_and_nothing_is_lost_by_mounting() -> None:
    (found,) = check_idle([IdleQueue(FOLDER, "s3://lab", error="its journal cannot be read: x")])
    assert found.state == "problem"
    assert "deletes nothing" in found.fix


def test_a_journal_that_takes_long_to_read_is_not_called_broken() -> None:
    slow = IdleQueue(FOLDER, "s3://lab", error="not read within 10 s", is_slow=True)
    (found,) = check_idle([slow])
    assert found.state == "warning"
    assert "sets aside" not in found.fix
    assert "nothing is wrong with it" in found.fix


def test_what_was_set_aside_is_named_with_how_to_get_it_back() -> None:
    names = tuple(f"T/{number}-0.data" for number in range(5))
    aside = check_quarantine(FOLDER, "s3://lab", names)
    assert (aside.state, aside.check) == ("warning", "quarantine of s3://lab")
    assert "5 set aside in /c/s3-lab-1/journal/quarantine: T/0-0.data, T/1-0.data" in aside.found
    assert aside.found.endswith("and 2 more")
    assert "tail -c +4097 FILE > COPY" in aside.fix
    assert PAGE == 4096
