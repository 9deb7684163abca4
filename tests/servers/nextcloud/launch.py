"""Starts the server as a process and drives it: what tests and benchmarks import."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

from tests.servers.scripted import ControlError, ScriptedProcess

__all__ = ["ControlError", "LogEntry", "NextcloudServer", "NodeFacts"]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One request as the server saw it; see `requestlog.LogRecord`.

    `headers` has those of `requestlog.LOGGED_HEADERS` that were sent, names in lower case. Times
    are time.monotonic() of this machine. `status` 0 means that no answer has gone out.
    """

    arrived_s: float
    connection_id: int
    method: str
    op: str
    tree: str
    path: str
    query: str
    headers: dict[str, str]
    status: int
    bytes_sent: int
    bytes_received: int
    done_s: float


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A file or folder as it is on the server. `etag` without quotes."""

    fileid: int
    oc_id: str
    etag: str
    size: int
    mtime_s: int
    checksum: str
    folder: bool


class NextcloudServer:
    """One Nextcloud-shaped server in its own process; a context manager that starts and stops it.

    Every call that names no `user` is about the first account. Thread-safe.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        user: str = "tester",
        password: str = "correct horse",
        data: Path | None = None,
    ) -> None:
        self.user = user
        self.password = password
        arguments = ["--port", str(port), "--user", user, "--password", password]
        if data is not None:
            arguments += ["--data", str(data)]
        self._process = ScriptedProcess("tests.servers.nextcloud", arguments)

    def __enter__(self) -> "NextcloudServer":
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return self._process.ports["port"]

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    @property
    def control_url(self) -> str:
        """For other processes: POST JSON to `<control_url>/<action>`."""
        return f"http://127.0.0.1:{self._process.ports['control_port']}/_control"

    def dav_url(self, path: str = "", *, tree: str = "files", user: str = "") -> str:
        """The URL of a path in one of the user's trees, percent-encoded."""
        return f"{self.url}/remote.php/dav/{tree}/{quote(user or self.user)}/{quote(path)}"

    def cpu_seconds(self) -> float:
        return self._process.cpu_seconds()

    # Knobs, faults and settings

    def set_knobs(self, **knobs: Any) -> None:
        """Sets knobs for all requests (s3.knobs.Effects); those not named stay as they are."""
        self._process.call("knobs", knobs)

    def faults(self, *rules: dict[str, Any], replace: bool = False) -> None:
        """Adds rules: criteria (`method`, `op`, `tree`, `prefix` and the regular expression `path`
        of the path in the tree), `skip`, `times`, and the effects; see s3.knobs.Rule."""
        self._process.call("rules", {"rules": list(rules), "replace": replace})

    def clear_faults(self) -> None:
        self._process.call("rules", {"rules": [], "replace": True})

    def release(self) -> int:
        """Lets every held request go on; returns how many there were."""
        return int(self._process.call("release", {})["released"])

    def configure(self, **settings: Any) -> None:
        """Changes settings (settings.Settings); those not named stay as they are."""
        self._process.call("settings", settings)

    def refuse_connections(self, *, drop: bool = True, for_s: float | None = None) -> None:
        """Closes the port, and resets what is connected unless `drop` is False."""
        self._process.call("listen", {"open": False, "drop": drop, "for_s": for_s})

    def accept_connections(self) -> None:
        self._process.call("listen", {"open": True})

    def refuse_push(self, *, drop: bool = True) -> None:
        """Closes the port of notify_push, and resets who listens there unless `drop` is False."""
        self._process.call("listen", {"push": True, "open": False, "drop": drop})

    def accept_push(self) -> None:
        self._process.call("listen", {"push": True, "open": True})

    def reset(self) -> None:
        """Back to an empty, honest server with an empty log: for between tests."""
        self._process.call("reset", {"user": self.user, "password": self.password})

    # Who

    def add_account(self, user: str, password: str, **more: Any) -> None:
        """`display_name`, `bearers` (a list); also changes one that exists."""
        self._process.call("account", {"user": user, "password": password, **more})

    def allow_bearer(self, token: str) -> None:
        self.add_account(self.user, self.password, bearers=[token])

    def grant_logins(self, user: str = "") -> str:
        """What the person does in the browser of Login Flow v2; returns the app password."""
        return str(self._process.call("grant", {"user": user or self.user})["password"])

    def revoke_logins(self, user: str = "") -> None:
        """Makes all app passwords and bearer tokens void."""
        self._process.call("auth", {"revoke": user or self.user})

    def auth_failures(self) -> int:
        """Wrong passwords and tokens so far; a request without any is not counted."""
        return int(self._process.call("auth", {})["failures"])

    # Log and state

    def log(
        self, *, method: str = "", op: str = "", tree: str = "", prefix: str = ""
    ) -> list[LogEntry]:
        """The requests since the last clear_log in the order of arrival, filtered."""
        spec = {"method": method, "op": op, "tree": tree, "prefix": prefix}
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
        """cpu_s, max_rss_bytes, spool_bytes, connections, push_connections, held, requests,
        auth_failures."""
        found: dict[str, Any] = self._process.call("stats", {})
        return found

    # Files, behind the protocol's back: foreign changes, unlogged and untouched by knobs

    def put(
        self,
        path: str,
        data: bytes,
        *,
        user: str = "",
        mtime_s: float | None = None,
        checksum: str = "",
    ) -> NodeFacts:
        """Writes a file, and makes its folders."""
        query = {"user": user or self.user, "path": path, "checksum": checksum}
        if mtime_s is not None:
            query["mtime_s"] = repr(mtime_s)
        found = self._process.request("PUT", f"file?{urlencode(query)}", data)
        return NodeFacts(**json.loads(found))

    def read(self, path: str, *, user: str = "") -> bytes:
        """A file's bytes; ControlError if there is none."""
        query = urlencode({"user": user or self.user, "path": path})
        return self._process.request("GET", f"file?{query}")

    def node(self, path: str = "", *, user: str = "") -> NodeFacts | None:
        found = self._about("node", path, user)
        return None if found is None else NodeFacts(**found)

    def tree(self, *, user: str = "") -> list[str]:
        """Every path below the root; those of folders end with a slash."""
        return list(self._process.call("tree", {"user": user or self.user}))

    def mkdir(self, path: str, *, user: str = "") -> NodeFacts:
        return NodeFacts(**self._about("mkdir", path, user))

    def delete(self, path: str, *, user: str = "") -> None:
        """To the trash, as anybody else's DELETE."""
        self._about("delete", path, user)

    def move(self, path: str, to: str, *, user: str = "") -> NodeFacts:
        return NodeFacts(**self._about("move", path, user, to=to))

    def seed(self, path: str = "", **plan: Any) -> int:
        """Synthetic files below `path`: `directories` (d00000, ...) x `files` (f000000.bin, ...) of
        `size` bytes, and explicit `paths`; `seed`, `mtime_s`. What a file holds is
        `s3.seeding.synthetic_bytes(its path, start, end, seed)`. Returns how many."""
        return int(self._about("seed", path, plan.pop("user", ""), **plan)["files"])

    def serve_files(self, directory: Path, path: str = "") -> int:
        """Puts the files below a local directory at `path`, served by sendfile."""
        return int(self._about("files", path, "", directory=str(directory))["files"])

    def mount(self, path: str, kind: str, *, propagates: bool = False, user: str = "") -> None:
        """Makes `path` a mount: "external", "group" or "shared". Unless `propagates`, changes in it
        give no folder a new ETag, neither its own ones nor those above."""
        self._about("mount", path, user, type=kind, propagates=propagates)

    def deny(self, path: str, letters: str, *, user: str = "") -> None:
        """Takes letters of oc:permissions from `path` and all below it; "" gives them back."""
        self._about("deny", path, user, letters=letters)

    def lock(self, path: str, owner: str, *, owner_name: str = "", user: str = "") -> None:
        """Somebody's user lock (files_lock); owner "" unlocks."""
        self._about("lock", path, user, owner=owner, owner_name=owner_name or owner)

    def uploads(self, *, user: str = "") -> dict[str, Any]:
        """By folder: `chunks` (name: size), `destination`, `assembling`."""
        found: dict[str, Any] = self._process.call("uploads", {"user": user or self.user})
        return found

    def expire_uploads(self, *, user: str = "") -> int:
        """All upload folders are gone, as after a day without use."""
        return int(self._process.call("expire_uploads", {"user": user or self.user})["expired"])

    def trash(self, *, user: str = "") -> list[dict[str, Any]]:
        """`name` (in the trash), `original` (path) and `fileid` of each."""
        return list(self._process.call("trash", {"user": user or self.user}))

    def _about(self, action: str, path: str, user: str, **more: Any) -> Any:
        return self._process.call(action, {"user": user or self.user, "path": path, **more})
