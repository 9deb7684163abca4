"""What holds for every test: the real servers, and logs that are clean unless said otherwise."""

import compileall
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.fixtures", "tests.scheduling"]


# How long an example takes tells of the machine: one that is busy exceeds any deadline. The
# examples are the same in each run, so that a change is refused for what it did and not by chance.
# A run that searches (MODEL_EXAMPLES, or --hypothesis-profile searching) has others each time.
_ANY_MACHINE: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("tests", **_ANY_MACHINE, derandomize=True)
settings.register_profile("searching", **_ANY_MACHINE)
settings.load_profile("searching" if "MODEL_EXAMPLES" in os.environ else "tests")

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Our modules are compiled once, not by each daemon that a test starts: where Python may not
    write what it compiled (PYTHONDONTWRITEBYTECODE), a start took 0.51 s of CPU and takes 0.23.

    And what tests interrupt can be: a shell ignores SIGINT for what it starts with `&`, and all
    that this starts would, too."""
    if not hasattr(config, "workerinput"):
        for name in ("mountd", "cache/mountd_cache", "tests"):
            compileall.compile_dir(ROOT / name, quiet=2)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)


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
