"""What holds for every test: the real servers, and logs that are clean unless said otherwise."""

import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.fixtures", "tests.scheduling"]


# How long an example takes tells of the machine: one that is busy exceeds any deadline.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


class ExpectedLog:
    """The warnings that a test causes on purpose; see the fixture `expected_log`."""

    def __init__(self) -> None:
        self.patterns: list[re.Pattern[str]] = []

    def __call__(self, pattern: str) -> None:
        self.patterns.append(re.compile(pattern))

    def allows(self, message: str) -> bool:
        return any(pattern.search(message) for pattern in self.patterns)


@pytest.fixture
def expected_log() -> ExpectedLog:
    """Call it with a regular expression for each warning that the test provokes."""
    return ExpectedLog()


@pytest.fixture(autouse=True)
def _logs_are_clean(expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which mountd logged a warning or worse that nobody expected."""
    yield
    unexpected = [
        record.getMessage()
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.levelno >= logging.WARNING
        and record.name.split(".")[0] in ("mountd", "mountd_cache")
        and not expected_log.allows(record.getMessage())
    ]
    assert not unexpected, f"unexpected log output: {unexpected}"
