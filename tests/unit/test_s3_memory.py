"""What was proved of S3 servers outlives the process, for a week."""

import json
from pathlib import Path

import pytest

from mountd.remotes.s3_memory import LASTS_S, ProvenFile
from mountd.remotes.s3_probe import Proven, Prover
from mountd.remotes.s3_rest import S3Place, S3Rest
from tests.unit.test_s3_write_parts import ALL

PLACE = "https://host/bucket"
NOW_S = float(ALL.proven_s)


def memory(folder: Path, now_s: float = NOW_S) -> ProvenFile:
    return ProvenFile(folder / "proven.json", wall_clock=lambda: now_s)


def test_another_process_knows_what_was_proved(tmp_path: Path) -> None:
    assert memory(tmp_path).recall(PLACE) is None
    memory(tmp_path).keep(PLACE, ALL)
    memory(tmp_path).keep("https://host/other", ALL)
    assert memory(tmp_path).recall(PLACE) == ALL
    assert memory(tmp_path).recall("https://host/none") is None


@pytest.mark.parametrize(
    ("age_s", "is_known"), [(0, True), (LASTS_S, True), (LASTS_S + 1, False), (-3600, False)]
)
def test_what_is_old_or_of_the_future_is_proved_again(
    tmp_path: Path, age_s: float, is_known: bool
) -> None:
    memory(tmp_path).keep(PLACE, ALL)
    assert (memory(tmp_path, NOW_S + age_s).recall(PLACE) is not None) is is_known


def test_what_is_old_goes_when_something_new_comes(tmp_path: Path) -> None:
    memory(tmp_path).keep(PLACE, ALL)
    later_s = NOW_S + LASTS_S + 1
    new = Proven.from_dict({**ALL.to_dict(), "proven_s": int(later_s)})
    assert new is not None
    memory(tmp_path, later_s).keep("https://host/new", new)
    assert list(json.loads((tmp_path / "proven.json").read_text())) == ["https://host/new"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"https://host/bucket": 1}', "\xff"],
    ids=range(8),
)
def test_a_file_that_says_nothing_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "proven.json").write_text(text, encoding="latin-1")
    assert memory(tmp_path).recall(PLACE) is None
    memory(tmp_path).keep(PLACE, ALL)
    assert memory(tmp_path).recall(PLACE) == ALL


def test_without_a_place_to_write_it_is_proved_each_time(tmp_path: Path) -> None:
    memory(tmp_path / "missing").keep(PLACE, ALL)
    assert memory(tmp_path / "missing").recall(PLACE) is None


def test_servers_behind_one_host_are_not_taken_for_each_other() -> None:
    paths = ("", "/b", "/one/b", "/two/b")
    found = [S3Place("https://host", path, "b", "r").url for path in paths]
    assert found == [*["https://host/b"] * 2, "https://host/one/b", "https://host/two/b"]
    asked: list[str] = []

    class Memory:
        def recall(self, place: str) -> Proven | None:
            asked.append(place)
            return ALL

        def keep(self, place: str, proven: Proven) -> None:
            raise NotImplementedError

    for path in paths[2:]:
        rest = S3Rest(S3Place("https://host", path, "b", "r"), lambda: None, 1.0)
        Prover(rest, "", Memory())
        rest.close()
    assert asked == found[2:]
