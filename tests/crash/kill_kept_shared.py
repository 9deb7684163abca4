"""Files that somebody else changes, too, while one daemon after the other dies. Everybody reads a
file and adds a line to it: so whoever wins, each acknowledged line is on the remote, in the file or
in a conflict copy of it."""

import os
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.crash.kill_loop_calls import Calls, DaemonGone, Failed
from tests.crash.kill_loop_check import Report

NAME = "shared"
FILES = tuple(f"f{number}" for number in range(5))
# What an open file or its directory may say after others have changed it.
THEIRS = "ESTALE"


class SharedWork:
    """What the worker does; `lines` were acknowledged since that was asked last."""

    def __init__(self, calls: Calls, top: Path) -> None:
        self._calls = calls
        self._top = top
        self.lines: list[str] = []

    def look(self) -> Report:
        return Report(files=len(os.listdir(self._top)))

    def run(self, seconds: float, rng: random.Random) -> bool:
        """Until then, or until the daemon is gone: True."""
        until_s, run, number = time.monotonic() + seconds, f"{rng.randrange(1 << 32):08x}", 0
        while time.monotonic() < until_s:
            number += 1
            line = f"ours-{run}-{number}"
            try:
                self._add(self._top / rng.choice(FILES), line, rng)
                self.lines.append(line)
            except Failed:
                pass
            except DaemonGone:
                return True
            time.sleep(rng.choice((0, 0, 0.05, 0.5)))
        for error in [error for error in self._calls.errors if error.endswith(THEIRS)]:
            del self._calls.errors[error]
        return False

    def _add(self, path: Path, line: str, rng: random.Random) -> None:
        call = self._calls.call
        fd = call(f"open {path.name}", os.open, path, os.O_RDWR)
        try:
            data = call("pread", os.pread, fd, 1 << 24, 0)
            call("write", os.pwrite, fd, f"{line}\n".encode(), len(data))
            if rng.random() < 0.3:
                call("fsync", os.fsync, fd)
        except BaseException:
            os.close(fd)
            raise
        call("close", os.close, fd)
        self._calls.check_alive()


class Other:
    """Another machine, with boto3 and conditional requests; for `with`."""

    def __init__(self, environment: Mapping[str, str], bucket: str, seed: int) -> None:
        self._client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
            config=Config(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=10),
        )
        self._bucket = bucket
        self._rng = random.Random(f"{seed}-other")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.lines: list[str] = []

    def __enter__(self) -> "Other":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        number, run = 0, f"{self._rng.randrange(1 << 32):08x}"
        while not self._over.wait(self._rng.choice((0.1, 0.5, 2))):
            number += 1
            try:
                self._add(f"{NAME}/{self._rng.choice(FILES)}", f"theirs-{run}-{number}")
            except (ClientError, BotoCoreError, OSError):
                continue  # somebody else was quicker, or the remote fails just now

    def _add(self, key: str, line: str) -> None:
        found = self._client.get_object(Bucket=self._bucket, Key=key)
        data = found["Body"].read() + f"{line}\n".encode()
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data, IfMatch=found["ETag"])
        self.lines.append(line)


def missing_lines(lines: list[str], contents: Mapping[str, bytes]) -> list[str]:
    """In words: what was acknowledged and is in none of these files, and what nobody wrote.
    `contents` by key."""
    there: set[str] = set()
    problems = []
    for key, data in contents.items():
        found = data.decode(errors="replace").split("\n")
        if found[0] != "begin" or found[-1] or not all(found[:-1]):
            problems.append(f"{key!r} is no text of whole lines: {data[:80]!r}...{data[-80:]!r}")
        there.update(found)
    gone = [line for line in lines if line not in there]
    if gone:
        problems.append(f"{len(gone)} of {len(lines)} lines are in no file: {gone[:8]}")
    return problems
