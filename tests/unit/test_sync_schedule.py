"""The schedule by itself: pure, over a ledger."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mountd.sync.conflict import BASE_GONE
from mountd.sync.retry import Trouble
from mountd.sync.schedule import Moment, Schedule
from mountd_cache.changes import Base, Change, ChangeKind, ChangeState, Content, Layer, Rows
from mountd_cache.ledger import Ledger

SECOND = 1_000_000_000
NOW_NS = 1_000_000 * SECOND


def change(key: str, kind: ChangeKind = ChangeKind.FILE, age_s: float = 100.0) -> Change:
    name = key.removesuffix("/")
    directory = name[: name.rfind("/") + 1]
    since_ns = NOW_NS - int(age_s * SECOND)
    number = hash(key) & 0xFFFF
    return Change(
        *(key, directory, name[len(directory) :].encode(), number, kind),
        since_ns=since_ns,
        changed_ns=since_ns,
    )


def scheduled(
    *changes: Change,
    contents: tuple[Content, ...] = (),
    real_directories: bool = False,
    is_open: bool = False,
    hurried: bool = False,
    took_s: float = 0.0,
    troubles: Mapping[str, Trouble] | None = None,
    in_flight: frozenset[str] = frozenset(),
    contents_in_flight: Mapping[int, str] | None = None,
) -> Schedule:
    ledger = Ledger()
    ledger.apply(Rows(changes=changes, contents=contents))
    moment = Moment(
        now_ns=NOW_NS,
        now_s=0.0,
        write_back_s=1.0,
        real_directories=real_directories,
        in_flight=in_flight,
        contents_in_flight=contents_in_flight or {},
        troubles=troubles or {},
        is_open=lambda number: is_open,
        is_hurried=lambda change: hurried,
        upload_took_s=lambda number: took_s,
    )
    schedule = Schedule(ledger, moment)
    for one in changes:
        schedule.look_at(one)
    schedule.finish()
    return schedule


def ready(schedule: Schedule) -> list[str]:
    return [change.key for change in schedule.ready]


def written(key: str, age_s: float, content_age_s: float) -> tuple[Change, Content]:
    content = Content(1, None, [Layer(0, 5, 0)], changed_ns=NOW_NS - int(content_age_s * SECOND))
    return replace(change(key, age_s=age_s), content=1), content


def test_the_oldest_goes_first() -> None:
    assert ready(scheduled(change("b", age_s=5), change("a", age_s=7))) == ["a", "b"]


def test_it_says_when_to_look_again() -> None:
    schedule = scheduled(change("a", age_s=0.25))
    assert ready(schedule) == []
    assert schedule.look_again_s == pytest.approx(0.75)


def test_the_last_write_counts_and_not_only_the_last_name() -> None:
    one, content = written("a", 30, 0.5)
    assert ready(scheduled(one, contents=(content,))) == []


def test_a_file_that_is_rewritten_all_the_time_goes_after_a_minute() -> None:
    one, content = written("a", 61, 0.5)
    assert ready(scheduled(one, contents=(content,))) == ["a"]


@pytest.mark.parametrize(
    ("took_s", "age_s", "goes"),
    [(0, 59, False), (0, 61, True), (20, 199, False), (20, 201, True), (9999, 3601, True)],
)
def test_an_open_file_waits_for_a_minute_or_ten_times_its_last_upload(
    took_s: float, age_s: float, goes: bool
) -> None:
    one, content = written("a", age_s, 0.0)
    schedule = scheduled(one, contents=(content,), is_open=True, took_s=took_s)
    assert bool(ready(schedule)) is goes


def test_what_somebody_waits_for_goes_at_once() -> None:
    one, content = written("a", 0, 0)
    assert ready(scheduled(one, contents=(content,), is_open=True, hurried=True)) == ["a"]


def test_a_clock_that_was_set_back_holds_nothing_up_for_ever() -> None:
    assert ready(scheduled(change("a", age_s=-5000))) == ["a"]


def test_a_failure_rests_and_is_looked_at_again() -> None:
    schedule = scheduled(change("a"), troubles={"a": Trouble(3, 8.0, "x")})
    assert (ready(schedule), schedule.look_again_s) == ([], 8.0)


def test_what_failed_does_not_go() -> None:
    schedule = scheduled(replace(change("a"), state=ChangeState.FAILED))
    assert (ready(schedule), schedule.failed) == ([], 1)


def test_a_content_travels_to_one_key_at_a_time() -> None:
    one, content = written("b", 100, 100)
    flying = change("a", ChangeKind.GONE_FILE)
    schedule = scheduled(
        one,
        flying,
        contents=(content,),
        in_flight=frozenset({"a"}),
        contents_in_flight={1: "a"},
    )
    assert (ready(schedule), schedule.waits_for) == ([], {"b": ("a",)})


def renamed(key: str, source: str, size: int = 5) -> Change:
    return replace(change(key), base=Base(source, "v", size), size=size, sequence=ord(key[0]))


def test_what_others_are_built_on_waits() -> None:
    gone = replace(change("a", ChangeKind.GONE_FILE), expect="v")
    schedule = scheduled(gone, renamed("b", "a"))
    assert (ready(schedule), schedule.waits_for) == (["b"], {"a": ("b",)})


def test_of_a_swap_the_smaller_is_staged() -> None:
    schedule = scheduled(renamed("a", "b", size=9), renamed("b", "a", size=3))
    assert ready(schedule) == []
    assert [change.size for change in schedule.stage] == [3]


def test_a_cycle_of_three_is_broken_in_one_place() -> None:
    schedule = scheduled(renamed("a", "b"), renamed("b", "c"), renamed("c", "a"))
    assert ready(schedule) == []
    assert len(schedule.stage) == 1


def test_what_failed_gives_way_by_taking_its_base_along() -> None:
    failed = replace(renamed("a~", "a"), state=ChangeState.FAILED, reason="no")
    schedule = scheduled(change("a"), failed)
    assert (ready(schedule), [c.key for c in schedule.stage]) == ([], ["a~"])


def test_what_has_lost_its_base_keeps_nobody_waiting() -> None:
    failed = replace(renamed("a~", "a"), state=ChangeState.FAILED, reason=BASE_GONE)
    assert ready(scheduled(change("a"), failed)) == ["a"]


DIRECTORY, GONE_DIRECTORY = ChangeKind.DIRECTORY, ChangeKind.GONE_DIRECTORY


def test_real_directories_come_before_what_is_in_them() -> None:
    changes = (change("d/", DIRECTORY), change("d/e/", DIRECTORY), change("d/e/f"))
    assert ready(scheduled(*changes, real_directories=True)) == ["d/"]
    assert len(ready(scheduled(*changes))) == 3


def test_a_directory_goes_after_everything_below_it() -> None:
    changes = (change("d/", GONE_DIRECTORY), change("d/e/f", ChangeKind.GONE_FILE))
    assert ready(scheduled(*changes)) == ["d/e/f"]
    assert ready(scheduled(changes[0])) == ["d/"]


def test_a_file_and_a_directory_of_one_name_follow_each_other_where_directories_are_real() -> None:
    to_directory = (change("a/", DIRECTORY), change("a", ChangeKind.GONE_FILE))
    assert ready(scheduled(*to_directory, real_directories=True)) == ["a"]
    to_file = (change("a"), change("a/", GONE_DIRECTORY))
    assert ready(scheduled(*to_file, real_directories=True)) == ["a/"]
    assert len(ready(scheduled(*to_file))) == 2


def test_a_file_moved_into_a_directory_of_its_own_name_is_staged() -> None:
    changes = (
        change("f/", DIRECTORY),
        renamed("f/f", "f"),
        replace(change("f", ChangeKind.GONE_FILE), expect="v"),
    )
    schedule = scheduled(*changes, real_directories=True)
    assert (ready(schedule), [c.key for c in schedule.stage]) == ([], ["f/f"])
