"""Logging: text or JSON lines, to stderr or to rotated files, with every secret blotted out."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

from mountd.config import MIB, Settings
from mountd.config.credentials import CREDENTIALS
from mountd.origin import origin
from mountd_cache.durable_io import make_private_file

LOG_FILE = "mountd.log"
OUTPUT_FILE = "output.log"  # what is written to stdout and stderr past logging: crashes, libraries
ROTATE_BYTES = 10 * MIB
KEPT_FILES = 3
_SHORTEST_SECRET = 4  # blotting out "a" would make the log unreadable and protect nothing
_SECRETS_IN_ENVIRONMENT = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"),
    *("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"),
    *("OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET"),
)
_RCLONE_SECRET = re.compile(r"RCLONE_.*(PASS|SECRET|TOKEN|KEY|SAS|CREDENTIALS).*")
_IN_URL = re.compile(r"://[^/?#@\s:]*:([^/?#@\s]+)@")
# Of a SAS, a connection string, and a service account's file.
_IN_TEXT = re.compile(
    r"""(?:\bsig=|AccountKey=|"private_key(?:_id)?":\s*"|"client_secret":\s*")([^&;"\s]+)"""
)


def setup_logging(settings: Settings, log_dir: Path | None) -> None:
    """Sends mountd's records of `log_level` and above, and others' warnings, to one place.

    `log_dir` is the folder of the rotated files; None is stderr.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if log_dir is not None:
        make_private_file(log_dir / LOG_FILE)
        handler = RotatingFileHandler(
            log_dir / LOG_FILE, maxBytes=ROTATE_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )
    handler.setFormatter(LogFormatter(settings.log_format == "json", secrets_of(settings)))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, logging.FileHandler):
            old.close()
    root.addHandler(handler)
    # botocore's and httpx' debug records hold whole requests with their signatures.
    root.setLevel(logging.WARNING)
    level = getattr(logging, settings.log_level.upper())
    for name in ("mountd", "mountd_cache"):
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


def secrets_of(settings: Settings) -> list[str]:
    """Every secret that this process was given in a way that we know, the longest first."""
    given = dict(settings.credentials)
    found = [value for key, value in given.items() if CREDENTIALS.get(key, True)]
    found += [os.environ.get(name, "") for name in _SECRETS_IN_ENVIRONMENT]
    found += [value for name, value in os.environ.items() if _RCLONE_SECRET.fullmatch(name)]
    for value in os.environ.values():  # a proxy's or an endpoint's
        found += (unquote(secret) for secret in _IN_URL.findall(value))
    for text in found[:]:  # the parts that are secret by themselves
        found += _IN_TEXT.findall(text)
    secrets = {one for one in found if len(one) >= _SHORTEST_SECRET} - {"true", "false"}
    return sorted(secrets, key=len, reverse=True)


class Blotter:
    """Takes every one of `secrets` out of a text, also as it stands in URLs and in JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spelt: dict[str, None] = {}
        for secret in secrets:
            raw = os.fsencode(secret)
            quoted = quote(raw, safe=""), quote(raw), quote_plus(raw)
            spelt |= dict.fromkeys((secret, *quoted, json.dumps(secret)[1:-1], repr(secret)[1:-1]))
        self._secrets = tuple(sorted(spelt, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class LogFormatter(logging.Formatter):
    """One record as a line of text (with its traceback below) or as one line of JSON."""

    def __init__(self, as_json: bool, secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._as_json = as_json
        self._blot = Blotter(secrets)

    def format(self, record: logging.LogRecord) -> str:
        text = self._blot(super().format(record))
        if not self._as_json:
            return text
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._blot(record.getMessage()),
        }
        whose = origin.get()
        for name in ("request", "operation", "path"):
            value = getattr(record, name, "") or (getattr(whose, name) if whose else "")
            if value:
                line[name] = self._blot(value)
        if record.exc_text:
            line["exception"] = self._blot(record.exc_text)
        text = json.dumps(line, ensure_ascii=False)
        # A name that is no UTF-8 can't be written as it is.
        return text if text.isascii() or _is_utf8(text) else json.dumps(line)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
