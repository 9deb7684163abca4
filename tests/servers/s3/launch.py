"""Starts the server as a process and drives it: what tests and benchmarks import."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

from tests.servers.scripted import ControlError, ScriptedProcess

__all__ = ["ControlError", "LogEntry", "S3Server"]


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


class S3Server:
    """One scriptable S3 server in its own process; a context manager that starts and stops it.

    Thread-safe.
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
        self._data = data
        self._process = ScriptedProcess("tests.servers.s3", ())

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
        arguments = ["--port", str(self.port), "--region", self.region]
        arguments += ["--access-key", self.access_key, "--secret-key", self.secret_key]
        if self.session_token is not None:
            arguments += ["--session-token", self.session_token]
        if self._data is not None:
            arguments += ["--data", str(self._data)]
        self._process = ScriptedProcess("tests.servers.s3", arguments)
        self._process.start()
        self.port = self._process.ports["port"]

    def stop(self) -> None:
        """Idempotent."""
        self._process.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def control_url(self) -> str:
        """For other processes: POST JSON to `<control_url>/<action>`."""
        return f"http://127.0.0.1:{self._process.ports['control_port']}/_control"

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
        return self._process.cpu_seconds()

    # Knobs and faults

    def set_knobs(self, **knobs: Any) -> None:
        """Sets knobs for all requests (see `knobs.Effects`); those not named stay as they are."""
        self._process.call("knobs", knobs)

    def faults(self, *rules: dict[str, Any], replace: bool = False) -> None:
        """Adds rules: criteria, `skip`, `times` (see `knobs.Rule`), and the effects."""
        self._process.call("rules", {"rules": list(rules), "replace": replace})

    def clear_faults(self) -> None:
        self._process.call("rules", {"rules": [], "replace": True})

    def release(self) -> int:
        """Lets every held request go on; returns how many there were."""
        return int(self._process.call("release", {})["released"])

    def refuse_connections(self, *, drop: bool = True, for_s: float | None = None) -> None:
        """Closes the port, and resets what is connected unless `drop` is False."""
        self._process.call("listen", {"open": False, "drop": drop, "for_s": for_s})

    def accept_connections(self) -> None:
        self._process.call("listen", {"open": True})

    def set_identities(self, *identities: Mapping[str, str | None]) -> None:
        """Replaces who may sign: access_key, secret_key and optionally session_token each."""
        self._process.call("credentials", {"identities": list(identities)})

    def reset(self) -> None:
        """Back to an empty, honest server with an empty log: for between tests."""
        self._process.call("reset", {})
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
        return [LogEntry(**entry) for entry in self._process.call("log", spec)]

    def clear_log(self) -> None:
        self._process.call("clear_log", {})

    def wait_for_requests(
        self, count: int, *, timeout_s: float = 30.0, op: str = "", prefix: str = ""
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
        found: dict[str, Any] = self._process.call("stats", {})
        return found

    # Objects, behind the protocol's back

    def seed(self, bucket: str, **plan: Any) -> int:
        """Makes synthetic objects (see `seeding.SeedPlan`) and returns how many."""
        return int(self._process.call("seed", {"bucket": bucket, **plan})["objects"])

    def make_bucket(self, bucket: str) -> None:
        self.seed(bucket)

    def serve_files(self, bucket: str, directory: Path, prefix: str = "") -> int:
        """Makes the files below a local directory objects, and returns how many."""
        spec = {"bucket": bucket, "directory": str(directory), "prefix": prefix}
        return int(self._process.call("files", spec)["objects"])

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
        return str(
            json.loads(self._process.request("PUT", f"object?{urlencode(query)}", data))["etag"]
        )

    def put_many(self, bucket: str, keys: Iterable[str], data: bytes = b"x") -> None:
        for key in keys:
            self.put(bucket, key, data)

    def read(self, bucket: str, key: str) -> bytes:
        """An object's bytes; ControlError if there is none."""
        return self._process.request(
            "GET", f"object?{urlencode({'bucket': bucket, 'key': key})}", b""
        )

    def contents_url(self, bucket: str, key: str) -> str:
        """Where `read` gets its bytes: for whoever wants them piece by piece."""
        return f"{self.control_url}/object?{urlencode({'bucket': bucket, 'key': key})}"

    def delete(self, bucket: str, key: str) -> None:
        self._process.request("DELETE", f"object?{urlencode({'bucket': bucket, 'key': key})}", b"")

    def keys(self, bucket: str) -> list[str]:
        return list(self._process.call("keys", {"bucket": bucket}))
