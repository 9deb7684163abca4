"""`mountd status` for people: its first line answers "is my data safe?", and it is true."""

import io
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from mountd.cli.status_table import print_statuses, rendered, verdicts
from mountd.cli.verdict import Rank, verdict
from mountd.cli.watch import KEPT, History, sparkline, watch
from mountd.errors import MountPointError

EMPTY = {"pending": 0, "uploading": 0, "failed": 0, "conflicts": 0, "bytes": 0, "oldest_s": None}
OK = {"state": "ok", "since": "2026-01-31T10:00:00Z", "last_error": None}
AWAY = {**OK, "state": "unreachable", "last_error": "Unreachable: no route"}
DENIED = {**OK, "state": "denied", "last_error": "Denied: 403"}
REFUSED = {"state": "refused", "since": "2026-01-31T10:00:00Z", "reason": "PUT a: 403"}
REFUSES = {**OK, "writes": REFUSED}
THREE = {"pending": 2, "uploading": 1, "bytes": 12 << 20, "oldest_s": 40.2, "oldest_path": "a/b"}


def status(queue: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        **{"mountpoint": "/s", "source": "s3://lab", "pid": 7, "state": "ready", "remote": OK},
        **{"cache": {"bytes": 1 << 20, "limit_bytes": 1 << 30, "hits": 9, "misses": 1}},
        "queue": {**EMPTY, **(queue or {})},
        "transfer": {"up_bytes_per_s": 2048, "down_bytes_per_s": 0},
        **more,
    }


GONE = {"remote": None, "cache": None, "transfer": None}
DEAD = status(state="dead", error="no daemon serves it", **GONE)
IDLE = {
    **status({"pending": 2, "failed": 1, "bytes": 5}, state="no daemon", **GONE),
    **{"mountpoint": None, "folder": "/c/lab", "quarantined": []},
}


@pytest.mark.parametrize(
    ("found", "rank", "line"),
    [
        (status(), Rank.SAFE, "everything is on s3://lab"),
        (
            status(THREE),
            Rank.WAITS,
            "3 files (12.0 MiB) are only on this machine, the oldest for 40 s",
        ),
        (
            status({"pending": 1, "bytes": 5, "oldest_s": 1}),
            Rank.WAITS,
            "1 file (5 B) is only on this machine, for 1 s",
        ),
        (
            status({"pending": 3, "removals": 2, "bytes": 5}),
            Rank.WAITS,
            "1 file (5 B) is only on this machine and 2 removals are not done on s3://lab yet",
        ),
        (
            status({"pending": 1, "removals": 1}),
            Rank.WAITS,
            "1 removal is not done on s3://lab yet",
        ),
        (
            status(THREE, remote=AWAY),
            Rank.STUCK,
            "3 files (12.0 MiB) are only on this machine, the oldest for 40 s; s3://lab does not "
            "answer, and gets it when that is over",
        ),
        (
            status({"pending": 1, "bytes": 5}, remote={**OK, "state": "degraded"}),
            Rank.WAITS,
            "1 file (5 B) is only on this machine; s3://lab answers with errors, or slowly, and is "
            "tried again",
        ),
        (
            status({"pending": 1, "bytes": 5}, remote=DENIED),
            Rank.STUCK,
            "1 file (5 B) is only on this machine; s3://lab refuses our credentials or rights, and "
            "gets it when that is over",
        ),
        (
            status({"pending": 1, "bytes": 5}, read_only=True),
            Rank.STUCK,
            "1 file (5 B) is only on this machine; this mount is read_only, and sends nothing",
        ),
        (status({"failed": 2}), Rank.FAILED, "2 changes failed: see mountd queue /s"),
        (
            status({"failed": 2}, remote=REFUSES),
            Rank.FAILED,
            "2 changes failed, writes are refused by the remote: see mountd queue /s",
        ),
        (
            status({"pending": 1, "bytes": 5}, remote=REFUSES),
            Rank.STUCK,
            "1 file (5 B) is only on this machine; writes are refused by the remote",
        ),
        (
            status(quarantined=["20260131T100000Z/3-0.data"], cache={"folder": "/c/lab"}),
            Rank.FAILED,
            "something of s3://lab was set aside in /c/lab: mountd doctor says more; else "
            "everything is on s3://lab",
        ),
        (
            status({**THREE, "failed": 1}, remote=AWAY),
            Rank.FAILED,
            "1 change failed: see mountd queue /s; 3 more wait (12.0 MiB in all);"
            " s3://lab does not answer, and gets it when that is over",
        ),
        (
            status(remote=AWAY),
            Rank.SAFE,
            "everything is on s3://lab; it does not answer now, what is written next waits here",
        ),
        (
            status({"open_for_writing": 2}),
            Rank.SAFE,
            "everything that was closed is on s3://lab; 2 files are open for writing",
        ),
        (
            DEAD,
            Rank.STUCK,
            "no daemon serves /s: whether everything is on s3://lab is not known; mount it again",
        ),
        (
            {**DEAD, "queue": {**EMPTY, "pending": 1, "bytes": 5}},
            Rank.STUCK,
            "no daemon serves /s: 1 change (5 B) is only on this machine; mount it again to send "
            "it",
        ),
        (
            status(state="not answering", **GONE) | {"queue": None},
            Rank.UNKNOWN,
            "/s is not answering: whether everything is on s3://lab is not known",
        ),
        (
            IDLE,
            Rank.STUCK,
            "3 changes (5 B) for s3://lab are only in /c/lab, and no daemon sends them: mount it "
            "again",
        ),
        (
            {**IDLE, "queue": EMPTY, "quarantined": ["x"]},
            Rank.FAILED,
            "something of s3://lab was set aside in /c/lab: mountd doctor says more",
        ),
        (
            {**IDLE, "error": "its journal cannot be read"},
            Rank.FAILED,
            "what waits for s3://lab in /c/lab is not known: its journal cannot be read",
        ),
    ],
)
def test_the_answer_is_true(found: dict[str, Any], rank: Rank, line: str) -> None:
    assert (verdict(found).rank, verdict(found).line) == (rank, line)


def test_the_first_line_is_about_the_mount_that_is_worst() -> None:
    worse = status({"failed": 1}, mountpoint="/t")
    assert [line for line, _ in verdicts([status(), worse])] == [
        "/t: 1 change failed: see mountd queue /t",
        "/s: everything is on s3://lab",
    ]
    assert verdicts([]) == [("nothing is mounted", "")]


def printed(found: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    Console(width=100, file=out).print(rendered(found))
    return out.getvalue()


@pytest.mark.parametrize("form", ["terminal", "pipe"])
def test_the_table_has_what_an_operator_asks_for(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = {"bytes": 1, "limit_bytes": 1 << 20, "hits": 9, "misses": 1}
    cache["disk_error"] = "No space left on device"  # type: ignore[assignment]
    bad = status(
        {**THREE, "failed": 1, "conflicts": 2}, remote=AWAY, cache=cache, metrics="127.0.0.1:9"
    )
    print_statuses([bad])
    text = capsys.readouterr().out if form == "pipe" else printed([bad])
    words = " ".join(text.split())
    assert text.startswith("1 change failed: see mountd queue /s")
    for part in (
        "mount /s ready, pid 7",
        "remote s3://lab unreachable for ",
        "cache 1 B of 1.0 MiB, 90 % of 10 reads from it",
        "queue 4 changes, 12.0 MiB, 1 on the way",
        "oldest unsent a/b, for 40 s",
        "failed 1",
        "conflicts 2",
        "rates up 2.0 KiB/s, down 0 B/s",
        "http://127.0.0.1:9/metrics",
        "unreachable: no route",
        "the cache's disk: No space left on device",
        "the cache is full of what was not sent",
        "both versions are kept",
    ):
        assert part in words


def test_what_a_status_says_can_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    evil = status({**THREE, "oldest_path": "a\x1b[2Jb"}, remote={**AWAY, "last_error": "\x1b]0;x"})
    print_statuses([evil])
    assert "\x1b" not in capsys.readouterr().out
    assert "\x1b" not in printed([evil])


@pytest.mark.parametrize("found", [{}, {"state": "out of sight"}, {**DEAD, "queue": None}, IDLE])
def test_a_status_that_lacks_things_is_shown_all_the_same(found: dict[str, Any]) -> None:
    assert printed([found])


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], "▁▁"), ([0, 1, 50, 100], "▁▂▅█"), ([None, 3.0, None], " █ ")],
)
def test_a_sparkline_has_a_bar_for_each_value_and_gaps(
    values: Sequence[float | None], line: str
) -> None:
    assert sparkline(values) == line


def test_the_history_has_gaps_where_a_daemon_was_away_and_an_end() -> None:
    history = History()
    for found in ([status(THREE)], [], [DEAD], [status()]):
        history.add(found)
    assert [value for _, value, _ in history.facts("/s")] == [
        "█  █  most 2.0 KiB/s",
        "▁  ▁  most 0 B/s",
        "█ ▁▁  most 3",
    ]
    for _ in range(2 * KEPT):
        history.add([status()])
    assert history.facts("/s")[2][1] == "▁" * KEPT + "  most 0"


def looks(*steps: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[dict[str, Any]]]:
    """One after the other, and then Ctrl-C."""
    left = list(steps)

    def look() -> list[dict[str, Any]]:
        if not left:
            raise KeyboardInterrupt
        return left.pop(0)()

    return look


def nothing_mounted() -> list[dict[str, Any]]:
    raise MountPointError("nothing is mounted at /s")


def test_watching_without_a_terminal_is_lines_over_a_restart_until_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    watch(looks(lambda: [status(THREE)], nothing_mounted, lambda: [status()]), 0)
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]", line) for line in lines)
    words = [line.partition(" ")[2] for line in lines]
    assert words == [
        "3 files (12.0 MiB) are only on this machine, the oldest for 40 s",
        "/s: ready, remote ok, up 2.0 KiB/s, down 0 B/s, queue 3",
        "nothing is mounted at /s",
        "everything is on s3://lab",
        "/s: ready, remote ok, up 2.0 KiB/s, down 0 B/s, queue 0",
    ]
    assert signal.getsignal(signal.SIGTERM) is before
