"""Starts the server as a process and drives it: what tests and benchmarks import."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 20.0
CONTROL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One S3 request as the server saw it; see `requestlog.LogRecord`.

    `range` is the header's text (`bytes=0-99`, "" without). Times are time.monotonic() of this
    machine. `status` 0 means that no answer has gone out.
    """

    arrived_s: float
    connection_id: int
    method: str
    op: str
    bucket: str
    key: str
    query: str
    range: str
    status: int
    bytes_sent: int
    bytes_received: int
    done_s: float


class ControlError(Exception):
    """The control path refused a call: an unknown knob, a wrong value."""


class S3Server:
    """One scriptable S3 server in its own process; a context manager that starts and stops it.

    Thread-safe: control calls take turns on one connection to the control port, which answers
    also while the S3 port refuses connections.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        access_key: str = "AKIDEXAMPLE",
        secret_key: str = "SECRETEXAMPLE",
        session_token: str | None = None,
        region: str = "us-east-1",
        data: Path | None = None,
    ) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.session_token = session_token
        self.region = region
        self.port = port
        self._control_port = 0
        self._data = data
        self._process: subprocess.Popen[str] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "S3Server":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # The process

    def start(self) -> None:
        """Returns when the server accepts connections; RuntimeError if it doesn't within 20 s."""
        command = [sys.executable, "-m", "tests.servers.s3", "--port", str(self.port)]
        command += ["--access-key", self.access_key, "--secret-key", self.secret_key]
        command += ["--region", self.region, "--exit-with-stdin"]
        if self.session_token is not None:
            command += ["--session-token", self.session_token]
        if self._data is not None:
            command += ["--data", str(self._data)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._process = process
        assert process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        process.stdout.close()
        if not line:
            raise RuntimeError(f"the S3 server did not start: exit code {process.wait()}")
        ready = json.loads(line)
        self.port = ready["port"]
        self._control_port = ready["control_port"]

    def stop(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def control_url(self) -> str:
        """For other processes: POST JSON to `<control_url>/<action>`."""
        return f"http://127.0.0.1:{self._control_port}/_control"

    def url(self, bucket: str, key: str = "") -> str:
        """The path-style URL of a bucket or an object, percent-encoded."""
        return f"{self.endpoint}/{bucket}/{quote(key)}" if key else f"{self.endpoint}/{bucket}"

    def environment(self) -> dict[str, str]:
        """What the AWS SDKs and mountd read from the environment, to reach this server."""
        found = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
        }
        if self.session_token is not None:
            found["AWS_SESSION_TOKEN"] = self.session_token
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the server process, to the clock tick (10 ms)."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # Knobs and faults

    def set_knobs(self, **knobs: Any) -> None:
        """Sets knobs for all requests (see `knobs.Effects`); those not named stay as they are."""
        self._call("knobs", knobs)

    def faults(self, *rules: dict[str, Any], replace: bool = False) -> None:
        """Adds rules: criteria, `skip`, `times` (see `knobs.Rule`), and the effects."""
        self._call("rules", {"rules": list(rules), "replace": replace})

    def clear_faults(self) -> None:
        self._call("rules", {"rules": [], "replace": True})

    def release(self) -> int:
        """Lets every held request go on; returns how many there were."""
        return int(self._call("release", {})["released"])

    def refuse_connections(self, *, drop: bool = True, for_s: float | None = None) -> None:
        """Closes the port, and resets what is connected unless `drop` is False."""
        self._call("listen", {"open": False, "drop": drop, "for_s": for_s})

    def accept_connections(self) -> None:
        self._call("listen", {"open": True})

    def set_identities(self, *identities: Mapping[str, str | None]) -> None:
        """Replaces who may sign: access_key, secret_key and optionally session_token each."""
        self._call("credentials", {"identities": list(identities)})

    def reset(self) -> None:
        """Back to an empty, honest server with an empty log: for between tests."""
        self._call("reset", {})
        self.set_identities(
            {
                "access_key": self.access_key,
                "secret_key": self.secret_key,
                "session_token": self.session_token,
            }
        )

    # Log and state

    def log(
        self, *, method: str = "", op: str = "", bucket: str = "", prefix: str = ""
    ) -> list[LogEntry]:
        """The requests since the last clear_log in the order of arrival, filtered."""
        spec = {"method": method, "op": op, "bucket": bucket, "prefix": prefix}
        return [LogEntry(**entry) for entry in self._call("log", spec)]

    def clear_log(self) -> None:
        self._call("clear_log", {})

    def wait_for_requests(
        self, count: int, *, timeout_s: float = 10.0, op: str = "", prefix: str = ""
    ) -> list[LogEntry]:
        """Returns the log once `count` requests have arrived; TimeoutError after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = self.log(op=op, prefix=prefix)
            if len(found) >= count:
                return found
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(found)} of {count} requests arrived")
            time.sleep(0.005)

    def stats(self) -> dict[str, Any]:
        """cpu_s, max_rss_bytes, spool_bytes, connections, held, requests, objects."""
        found: dict[str, Any] = self._call("stats", {})
        return found

    # Objects, behind the protocol's back

    def seed(self, bucket: str, **plan: Any) -> int:
        """Makes synthetic objects (see `seeding.SeedPlan`) and returns how many."""
        return int(self._call("seed", {"bucket": bucket, **plan})["objects"])

    def make_bucket(self, bucket: str) -> None:
        self.seed(bucket)

    def serve_files(self, bucket: str, directory: Path, prefix: str = "") -> int:
        """Makes the files below a local directory objects, and returns how many."""
        spec = {"bucket": bucket, "directory": str(directory), "prefix": prefix}
        return int(self._call("files", spec)["objects"])

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        mtime_s: float | None = None,
        etag: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        """Writes an object, unlogged and untouched by knobs; returns its ETag without quotes."""
        query = {"bucket": bucket, "key": key}
        if mtime_s is not None:
            query["mtime_s"] = repr(mtime_s)
        if etag is not None:
            query["etag"] = etag
        if headers is not None:
            query["headers"] = json.dumps(headers)
        return str(json.loads(self._request("PUT", f"object?{urlencode(query)}", data))["etag"])

    def put_many(self, bucket: str, keys: Iterable[str], data: bytes = b"x") -> None:
        for key in keys:
            self.put(bucket, key, data)

    def read(self, bucket: str, key: str) -> bytes:
        """An object's bytes; ControlError if there is none."""
        return self._request("GET", f"object?{urlencode({'bucket': bucket, 'key': key})}", b"")

    def contents_url(self, bucket: str, key: str) -> str:
        """Where `read` gets its bytes: for whoever wants them piece by piece."""
        return f"{self.control_url}/object?{urlencode({'bucket': bucket, 'key': key})}"

    def delete(self, bucket: str, key: str) -> None:
        self._request("DELETE", f"object?{urlencode({'bucket': bucket, 'key': key})}", b"")

    def keys(self, bucket: str) -> list[str]:
        return list(self._call("keys", {"bucket": bucket}))

    def _call(self, action: str, spec: dict[str, Any]) -> Any:
        return json.loads(self._request("POST", action, json.dumps(spec).encode()))

    def _request(self, method: str, target: str, body: bytes) -> bytes:
        with self._lock:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self._control_port, timeout=CONTROL_TIMEOUT_S
                )
            self._connection.request(method, f"/_control/{target}", body)
            answer = self._connection.getresponse()
            data = answer.read()
        if answer.status != 200:
            raise ControlError(data.decode(errors="replace"))
        return data
