"""The Nextcloud rows: what the server did is told in the words that the stage counts by."""

from dataclasses import replace

import pytest

from tests.bench.cases import Case, Goal
from tests.bench.contestants import contestants
from tests.bench.nextcloud_contestants import TTL_S, on_nextcloud
from tests.bench.nextcloud_remote import NextcloudRemote, in_s3_words
from tests.bench.readers import WrongData
from tests.bench.remote_state import Objects, Synthetic
from tests.bench.results import Measurement, judge, summarize
from tests.servers.nextcloud.launch import LogEntry, NextcloudServer
from tests.servers.s3.seeding import synthetic_bytes

PUT = LogEntry(1.0, 1, "PUT", "Put", "files", "d/a b.bin", "", {}, 201, 0, 5000, 2.0)


def test_a_put_that_made_a_file_is_an_object_put() -> None:
    told = in_s3_words(PUT, "someone")
    assert (told.op, told.bucket, told.key, told.status) == (
        "PutObject",
        "someone",
        "d/a b.bin",
        200,
    )
    assert in_s3_words(replace(PUT, status=423), "someone").status == 423


def test_an_assembly_is_about_the_file_that_it_makes() -> None:
    destination = "http://127.0.0.1:1/remote.php/dav/files/someone/d/a%20b.bin"
    move = replace(
        PUT,
        method="MOVE",
        op="Assemble",
        tree="uploads",
        path="web-1/.file",
        headers={"destination": destination},
    )
    told = in_s3_words(move, "someone")
    assert (told.op, told.key) == ("CompleteMultipartUpload", "d/a b.bin")


def test_one_request_too_many_misses_a_goal_of_requests() -> None:
    case = Case("c", "a case", "files/s", Goal(2, requests=1))
    run = Measurement("c", "mountd", 1, rate=600.0, elapsed_s=1.0, requests=1)
    peer = summarize([Measurement("c", "rclone", 1, rate=10.0, requests=200)])
    assert judge(case, summarize([run]), [peer]).failed == ()
    assert judge(case, summarize([replace(run, requests=2)]), [peer]).failed == ("2 requests",)


def test_who_does_not_know_nextcloud_is_left_out_and_all_others_believe_as_long() -> None:
    chosen = on_nextcloud(list(contestants().values()))
    assert [each.name for each in chosen] == ["mountd", "rclone", "rclone-full", "rclone-tuned"]
    for each in chosen[1:]:
        assert f"--dir-cache-time {TTL_S}s;" in each.version()


@pytest.mark.server
def test_what_is_seeded_is_there_and_what_was_written_is_compared(
    nextcloud_server: NextcloudServer,
) -> None:
    remote = NextcloudRemote(nextcloud_server)
    remote.prepare()
    remote.seed("someone", keys=["d/a", "b"], size=5000, mtime_s=1.0)
    assert sorted(remote.keys("someone")) == ["b", "d/a"]
    state = Objects("someone", {"d/a": Synthetic("d/a", 5000), "b": Synthetic("b", 5000)})
    assert state.reached_s(remote) is None  # nobody has written it
    state.check(remote)
    nextcloud_server.put("b", synthetic_bytes("b", 1, 5001), user="someone")
    with pytest.raises(WrongData, match="is not what was written"):
        state.check(remote)
    for key in ("d/a", "b"):
        remote.delete("someone", key)
    assert remote.keys("someone") == []
    assert nextcloud_server.trash(user="someone") == []
