"""A warning that would come thousands of times comes once in a while, with a count."""

import errno
import logging

import pytest

from mountd.fusefs.errno_table import errno_of
from mountd.repeated_warnings import EVERY_S, GoesOn, Repeated
from tests.conftest import ExpectedLog


def test_of_a_kind_there_is_one_every_ten_seconds_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [100.0]
    repeated = Repeated(logging.getLogger("quiet"), lambda: now_s[0])
    for _ in range(1000):
        repeated.warning("ENOSPC", "full")
    repeated.warning("EIO", "broken")
    assert caplog.messages == ["full", "broken"]
    now_s[0] += EVERY_S
    repeated.warning("ENOSPC", "full")
    repeated.warning("EIO", "broken")
    assert caplog.messages[2:] == ["full (999 more like it in the 10 s before)", "broken"]


def test_a_full_disk_is_one_line_and_every_write_still_gets_its_errno(
    caplog: pytest.LogCaptureFixture, expected_log: ExpectedLog
) -> None:
    expected_log("answered E(NOSPC|DQUOT|IO): the cache's disk")
    full = OSError(errno.ENOSPC, "No space left on device", "/cache/x")
    answers = {errno_of(full, "write") for _ in range(500)}
    assert answers == {errno.ENOSPC}
    assert errno_of(OSError(errno.EDQUOT, "Disk quota exceeded"), "write") == errno.EDQUOT
    assert len([m for m in caplog.messages if "ENOSPC" in m]) <= 1
    assert len(caplog.messages) <= 2


def test_what_fails_again_and_again_is_a_line_for_each_reason_and_one_when_it_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "quiet")
    going = GoesOn(logging.getLogger("quiet"), "it fails: %s", "it works again")
    going.worked()
    for reason in ("full", "full", "broken", "broken"):
        going.failed(OSError(reason))
    going.worked()
    going.worked()
    going.failed(OSError("broken"))
    assert [record.getMessage() for record in caplog.records] == [
        *("it fails: full", "it fails: broken", "it works again", "it fails: broken")
    ]
