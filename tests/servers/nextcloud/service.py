"""What the operations work on: the accounts, their trees, uploads and trash, the log, the knobs."""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from tests.servers.nextcloud.requestlog import LogRecord
from tests.servers.nextcloud.settings import Settings
from tests.servers.nextcloud.tree import Node, Storage, Tree, new_etag
from tests.servers.s3.bodies import Body, PatternSource, Spool
from tests.servers.s3.knobs import Knobs

MAX_RECORDS = 2_000_000
INSTANCE_ID = "ocmountdtest"


class Timers(Protocol):
    def call_at(self, when_s: float, callback: Callable[[], None]) -> None: ...


class Chunk:
    __slots__ = ("body", "etag", "mtime_s")

    def __init__(self, body: Body) -> None:
        self.body = body
        self.etag = new_etag()
        self.mtime_s = int(time.time())


@dataclass(slots=True)
class Upload:
    """A folder of chunks. `destination` is what MKCOL said, "" without (chunking 1.0)."""

    name: str
    destination: str = ""
    chunks: dict[str, Chunk] = field(default_factory=dict)
    used_s: float = field(default_factory=time.monotonic)
    assembling: bool = False
    etag: str = field(default_factory=new_etag)

    def size(self) -> int:
        return sum(chunk.body.size for chunk in self.chunks.values())


@dataclass(slots=True)
class Trashed:
    """A deleted node, under its name in the trash (`a.txt.d1700000000`)."""

    name: str
    node: Node
    original: str
    deleted_s: int


@dataclass(slots=True)
class Account:
    user: str
    password: str
    tree: Tree
    display_name: str = ""
    app_passwords: set[str] = field(default_factory=set)
    bearers: set[str] = field(default_factory=set)
    uploads: dict[str, Upload] = field(default_factory=dict)
    trash: dict[str, Trashed] = field(default_factory=dict)

    def used_bytes(self) -> int:
        return self.tree.root.size

    def trashed_bytes(self) -> int:
        return sum(each.node.size for each in self.trash.values())


class WriterToken:
    """Held while a PUT or an assembly to one path is under way; gone with whoever holds it."""

    __slots__ = ("__weakref__",)


@dataclass(slots=True)
class LoginFlow:
    poll_token: str
    flow_token: str
    user: str = ""
    app_password: str = ""


@dataclass(slots=True)
class Service:
    """The state of one server. `port` is where it listens, once it does."""

    spool: Spool
    timers: Timers
    settings: Settings = field(default_factory=Settings)
    storage: Storage = field(default_factory=Storage)
    accounts: dict[str, Account] = field(default_factory=dict)
    knobs: Knobs = field(default_factory=Knobs)
    log: deque[LogRecord] = field(default_factory=lambda: deque(maxlen=MAX_RECORDS))
    pattern: PatternSource = field(default_factory=PatternSource)
    ids: Iterator[int] = field(default_factory=lambda: count(11))
    flows: list[LoginFlow] = field(default_factory=list)
    auth_failures: int = 0
    port: int = 0
    push_port: int = 0
    announce: Callable[[str, list[int]], None] = lambda user, ids: None
    _writers: dict[tuple[str, str], "weakref.WeakSet[WriterToken]"] = field(default_factory=dict)

    def configure(self, settings: Settings) -> None:
        self.settings = settings
        self.storage.stat_etags = settings.stat_etags
        self.storage.clock_s = settings.clock_s

    def add_account(self, user: str, password: str) -> Account:
        account = Account(user, password, Tree(self.ids, self.storage), display_name=user)
        self.accounts[user] = account
        return account

    def begin_writing(self, user: str, path: str) -> WriterToken:
        token = WriterToken()
        self._writers.setdefault((user, path), weakref.WeakSet()).add(token)
        return token

    def writers(self, user: str, path: str) -> int:
        found = self._writers.get((user, path))
        if found is None:
            return 0
        if not found:
            del self._writers[user, path]
        return len(found)

    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
