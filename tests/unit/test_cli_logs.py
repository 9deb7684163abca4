"""Logging: formats, levels, rotation, and secrets that never get there."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from mountd import logs
from mountd.config import Settings
from mountd.logs import Blotter, LogFormatter, secrets_of, setup_logging
from mountd.origin import begun, origin

SETTINGS = Settings(
    Path("/c"), credentials=MappingProxyType({"user": "annabel", "password": "s3cret"})
)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("mountd", "mountd_cache"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def record(message: str, *arguments: object) -> logging.LogRecord:
    try:
        raise ValueError("token s3cret")
    except ValueError:
        error = sys.exc_info()
    return logging.LogRecord("mountd.x", logging.ERROR, "", 1, message, arguments, error)


def test_a_json_line_has_its_parts_and_no_secret() -> None:
    text = LogFormatter(True, secrets_of(SETTINGS)).format(record("%s says s3cret", "annabel"))
    line = json.loads(text)
    assert line["level"] == "error"
    assert line["logger"] == "mountd.x"
    assert line["message"] == "annabel says ***"
    assert "ValueError: token ***" in line["exception"]
    assert line["time"].endswith("+00:00")


def test_a_text_line_has_no_secret_either() -> None:
    text = LogFormatter(False, secrets_of(SETTINGS)).format(record("it is %r", "s3cret"))
    assert "ERROR mountd.x: it is '***'" in text
    assert "s3cret" not in text


def test_secrets_of_the_environment_are_blotted_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETEXAMPLE")
    assert secrets_of(SETTINGS) == ["SECRETEXAMPLE", "s3cret"]


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("RCLONE_CONFIG_X_PASS", "obscured-xyz", "obscured-xyz"),
        ("HTTPS_PROXY", "http://me:pa%20ss@proxy:3128", "pa ss"),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=2024&sig=ab%2Bc&se=x", "ab%2Bc"),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=k3y==;X=y", "k3y=="),
    ],
)
def test_secrets_inside_of_variables_are_found(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, secret: str
) -> None:
    monkeypatch.setenv(name, value)
    assert secret in secrets_of(SETTINGS)


def test_a_secret_is_blotted_out_however_it_is_spelt() -> None:
    blot = Blotter(['a/b "c"+é\udcff'])
    for text in ('a/b "c"+é\udcff', "a%2Fb%20%22c%22%2B%C3%A9%FF", "a/b%20%22c%22%2B%C3%A9%FF"):
        assert blot(f"<{text}>") == "<***>"
    in_json = json.dumps(['a/b "c"+é\udcff'])
    assert blot("<a%2Fb+%22c%22%2B%C3%A9%FF>" + in_json) == '<***>["***"]'


def test_a_json_line_says_whose_request_it_was() -> None:
    formatter = LogFormatter(True, ["s3cret"])
    assert json.loads(formatter.format(record("x"))).keys() == {
        *("time", "level", "logger", "message", "exception"),
    }
    with begun("rename", "a/s3cret"):
        whose = origin.get()
        assert whose is not None
        line = json.loads(formatter.format(record("x")))
        assert (line["request"], line["operation"]) == (whose.request, "rename")
        assert line["path"] == "a/***"
        with begun("put", "b"):
            assert origin.get() is whose  # the outermost is whose doing it is
        special = record("x")
        special.path, special.request = "b\udcff", ""
        line = json.loads(formatter.format(special).encode())  # no UTF-8 in the name, but here
        assert (line["path"], line["request"]) == ("b\udcff", whose.request)
    assert origin.get() is None


def test_libraries_log_warnings_and_mountd_what_was_asked_for(
    root: logging.Logger, tmp_path: Path
) -> None:
    setup_logging(replace(SETTINGS, log_level="debug"), tmp_path)
    logging.getLogger("botocore").info("a signed request")
    logging.getLogger("mountd.vfs").debug("a detail")
    setup_logging(replace(SETTINGS, log_level="error"), tmp_path)
    logging.getLogger("mountd.vfs").warning("too small")
    text = (tmp_path / logs.LOG_FILE).read_text()
    assert "a detail" in text
    assert "a signed request" not in text
    assert "too small" not in text


def test_the_log_is_rotated_and_a_few_are_kept(root: logging.Logger, tmp_path: Path) -> None:
    setup_logging(SETTINGS, tmp_path)
    (handler,) = root.handlers
    for _ in range(logs.KEPT_FILES + 3):
        with (tmp_path / logs.LOG_FILE).open("ab") as file:
            file.truncate(logs.ROTATE_BYTES)
        handler.stream.seek(0, 2)  # type: ignore[attr-defined]
        logging.getLogger("mountd").info("one more")
    assert len(list(tmp_path.iterdir())) == logs.KEPT_FILES + 1
    assert (tmp_path / logs.LOG_FILE).stat().st_size < 1000
