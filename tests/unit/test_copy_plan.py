"""What `mountd copy` decides to copy, leave, delete and refuse; nothing is touched here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import UsageError
from mountd.transfer.filters import read_filter
from mountd.transfer.items import Item, with_links
from mountd.transfer.plan import Plan, Rules, make_plan


def items(*made: Item) -> dict[str, Item]:
    return {item.path: item for item in made}


def item(path: str, version: str = "v1", *, size: int = 10, mtime_ns: int = 0) -> Item:
    return Item(path, size, mtime_ns, version)


def copied(plan: Plan) -> list[str]:
    return [copy.item.path for copy in plan.copies]


def refused(plan: Plan) -> list[str]:
    return [refusal.path for refusal in plan.refusals]


def test_what_is_missing_or_of_another_size_is_copied() -> None:
    target = items(item("b", "x", size=9), item("c", "y"))
    plan = make_plan(items(item("a"), item("b"), item("c")), target, Rules())
    assert [(copy.item.path, copy.expect) for copy in plan.copies] == [("a", ""), ("b", "x")]
    assert [copy.item.path for copy in plan.asks] == ["c"]


def test_what_a_former_run_copied_is_the_same_while_both_sides_have_those_versions() -> None:
    rules = Rules(remembered={"a": ("v1", "t1"), "b": ("v1", "t1"), "c": ("v1", "t1")})
    source = items(item("a"), item("b", "v2", mtime_ns=5), item("c", mtime_ns=5))
    target = items(item("a", "t1"), item("b", "t1", mtime_ns=5), item("c", "t2"))
    plan = make_plan(source, target, rules)
    assert [copy.item.path for copy in plan.same] == ["a"]
    # The same time proves nothing for `b`: its source is another version since.
    assert [(copy.item.path, copy.is_edited) for copy in plan.asks] == [("b", True), ("c", False)]


def test_equal_times_are_enough_but_not_with_verify() -> None:
    source, target = items(item("a", mtime_ns=7)), items(item("a", "t", mtime_ns=7))
    assert len(make_plan(source, target, Rules()).same) == 1
    assert len(make_plan(source, target, Rules(verify=True)).asks) == 1


@pytest.mark.parametrize("keep_times", [True, False])
def test_whole_seconds_count_only_where_both_sides_keep_times(keep_times: bool) -> None:
    source = items(item("a", mtime_ns=7_300_000_000))
    target = items(item("a", "t", mtime_ns=7_000_000_000))
    plan = make_plan(source, target, Rules(keep_times=keep_times))
    assert (len(plan.same), len(plan.asks)) == ((1, 0) if keep_times else (0, 1))


def test_only_delete_deletes_and_never_what_is_filtered_out() -> None:
    source, target = items(item("a.jpg")), items(item("b.jpg"), item("notes.txt"))
    assert make_plan(source, target, Rules()).deletes == []
    rules = Rules(delete=True, filter=read_filter(["*.jpg"], []))
    assert [one.path for one in make_plan(source, target, rules).deletes] == ["b.jpg"]


def test_a_file_that_is_only_filtered_out_at_the_source_is_not_deleted() -> None:
    rules = Rules(delete=True, filter=read_filter([], ["a*"]))
    assert make_plan(items(item("a")), items(item("a", "t")), rules).deletes == []


def test_an_empty_source_deletes_only_with_force() -> None:
    with pytest.raises(UsageError, match="--delete=force"):
        make_plan({}, items(item("a")), Rules(delete=True))
    assert make_plan({}, items(item("a")), Rules(delete=True, delete_all=True)).deletes
    assert not make_plan({}, {}, Rules(delete=True)).deletes


@pytest.mark.parametrize("path", ["a//b", "../a", "a/../b", "a/.", "a\0", "x" * 256, "é" * 128])
def test_names_that_a_directory_cant_have_are_refused(path: str) -> None:
    plan = make_plan(items(item(path), item("ok")), {}, Rules(target_is_local=True))
    assert (refused(plan), copied(plan)) == ([path], ["ok"])


def test_a_file_where_the_other_side_has_a_directory_is_refused_and_named() -> None:
    source = items(item("a"), item("a/b"), item("c"), item("d/e"), item("f"))
    target = items(item("c/x"), item("d"))
    plan = make_plan(source, target, Rules())
    assert refused(plan) == ["a", "c", "d/e"]
    assert copied(plan) == ["a/b", "f"]
    assert len(make_plan(source, target, Rules(has_directories=False)).copies) == 5


@pytest.mark.parametrize("folds", [True, False])
def test_names_that_the_target_cant_tell_apart_are_refused_both(folds: bool) -> None:
    source = items(
        item("A.txt"), item("a.txt"), item("é"), item("e\u0301"), item("D/x"), item("d/y")
    )
    plan = make_plan(source, {}, Rules(target_is_local=True, folds=folds))
    assert len(plan.refusals) == (6 if folds else 0)
    assert len(plan.copies) == (0 if folds else 6)


def test_a_link_and_a_file_of_its_remote_name_are_refused() -> None:
    link = Item("a", 3, 0, "v", is_link=True)
    plan = make_plan(items(link, item("a.rclonelink")), {}, Rules(source_is_local=True))
    assert refused(plan) == ["a.rclonelink"]
    assert copied(plan) == ["a"]


def test_files_of_a_remote_that_stand_for_links_are_links() -> None:
    listed = with_links(
        items(item("a.rclonelink"), item("b.rclonelink"), item("b"), item("c.rclonelink", size=0))
    )
    assert {path for path, one in listed.items() if one.is_link} == {"a"}
    assert listed["a"].key == "a.rclonelink"


@pytest.mark.parametrize(
    ("glob", "taken", "left"),
    [
        ("*.jpg", ["a.jpg", "d/a.jpg", "d.jpg/x"], ["a.jpgx", "jpg"]),
        ("train/*", ["train/a", "train/d/b"], ["x/train/a", "train"]),
        ("/a", ["a", "a/b"], ["b/a"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["b/a/z"]),
        ("?[!a-c]", ["xd", "d/xd"], ["xa", "x", "x/"]),
        ("a[", ["a["], ["a"]),
        ("[.]x", [".x"], ["ax"]),
    ],
)
def test_globs_take_names_paths_and_whole_directories(
    glob: str, taken: list[str], left: list[str]
) -> None:
    only = read_filter([glob], [])
    assert [path for path in taken if not only.takes(path)] == []
    assert [path for path in left if only.takes(path)] == []


def test_exclude_wins_over_include() -> None:
    both = read_filter(["*.jpg"], ["old"])
    assert both.takes("a.jpg")
    assert not both.takes("old/a.jpg")
    with pytest.raises(UsageError):
        read_filter([""], [])


NAMES = st.sampled_from(["a", "b", "a/b", "A", "a/B", "c/a", "c"])
ITEMS = st.dictionaries(NAMES, st.tuples(st.sampled_from("12"), st.integers(0, 2))).map(
    lambda found: {path: Item(path, size, 0, version) for path, (version, size) in found.items()}
)


@given(ITEMS, ITEMS, st.booleans(), st.booleans())
def test_every_file_is_planned_once_and_nothing_of_the_source_is_deleted(
    source: dict[str, Item], target: dict[str, Item], local: bool, folds: bool
) -> None:
    rules = Rules(delete=True, delete_all=True, target_is_local=local, folds=folds)
    plan = make_plan(source, target, rules)
    planned = [one.item.path for group in (plan.copies, plan.asks, plan.same) for one in group]
    assert sorted(planned + refused(plan)) == sorted(source)
    assert {one.path for one in plan.deletes} == target.keys() - source.keys()
