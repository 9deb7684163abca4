"""What the bench needs of a remote's server, whichever it is."""

from typing import Any, Protocol

from tests.servers.s3.launch import LogEntry


class Remote(Protocol):
    """A server in a process of its own; `S3Server` is one as it stands.

    A bucket is what is mounted. Whatever here is asked of it is neither logged nor delayed. The
    log speaks of every remote in S3's words: `GetObject`, `PutObject`, a 200 for what was done.
    """

    @property
    def endpoint(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def access_key(self) -> str: ...

    @property
    def secret_key(self) -> str: ...

    def seed(self, bucket: str, **plan: Any) -> int:
        """Synthetic objects: see `tests.servers.s3.seeding.SeedPlan`."""

    def keys(self, bucket: str) -> list[str]: ...

    def delete(self, bucket: str, key: str) -> None: ...

    def contents_url(self, bucket: str, key: str) -> str:
        """Where the control port has an object's bytes."""

    def set_knobs(self, **knobs: Any) -> None:
        """See `tests.servers.s3.knobs.Effects`."""

    def clear_log(self) -> None: ...

    def log(self, *, op: str = "", bucket: str = "") -> list[LogEntry]: ...

    def cpu_seconds(self) -> float: ...
