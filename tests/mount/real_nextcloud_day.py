"""Mounts of a real Nextcloud (`tests/servers/real_nextcloud.py`), through a proxy that counts."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.servers.cutting_proxy import CuttingProxy, cutting_proxy
from tests.servers.real_nextcloud import (
    OCC_VARIABLE,
    OTHER_VARIABLE,
    RealNextcloud,
    is_there_one,
    real_nextcloud,
)

PATIENCE_S = 120.0  # PHP and SQLite on a busy machine
needs_one = [
    pytest.mark.fuse,
    pytest.mark.server,
    pytest.mark.skipif(not is_there_one(), reason="MOUNTD_TEST_NEXTCLOUD names no server"),
]
needs_occ = pytest.mark.skipif(OCC_VARIABLE not in os.environ, reason=f"{OCC_VARIABLE} is not set")
needs_other = pytest.mark.skipif(
    OTHER_VARIABLE not in os.environ, reason=f"{OTHER_VARIABLE} is not set"
)


@dataclass(slots=True)
class Day:
    """One account's folder on the server, and where it is mounted. `server` is asked past the
    proxy, as the web page or another client would."""

    server: RealNextcloud
    proxy: CuttingProxy
    folder: Path
    _stack: ExitStack = field(default_factory=ExitStack)

    def mount(self, **options: object) -> Mounted:
        """Mounts it; called again, that is a remount."""
        self.unmount()
        return self._stack.enter_context(
            mounted(
                f"nextcloud://{self.server.user}@cloud/{self.server.folder}",
                self.folder,
                environment={"MOUNTD_PASSWORD": self.server.password},
                endpoint=self.url,
                **({"cache_size": "1GiB", "metadata_ttl_s": 10} | options),
            )
        )

    def unmount(self) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"http://{self.proxy.authority}{urlsplit(self.server.url).path}"

    def forget_requests(self) -> None:
        self.proxy.heads.clear()

    def requests(self) -> Counter[str]:
        """What was asked since then, but for looks, by method."""
        found = Counter(head.partition(" ")[0] for head in self.proxy.heads)
        del found["PROPFIND"]
        return found

    def looks(self) -> int:
        return sum(head.startswith("PROPFIND ") for head in self.proxy.heads)


@contextmanager
def a_day(folder: Path) -> Iterator[Day]:
    with real_nextcloud() as server, cutting_proxy(_Address(urlsplit(server.url).netloc)) as proxy:
        day = Day(server, proxy, folder)
        try:
            yield day
        finally:
            day.unmount()


def flush(at: Mounted) -> None:
    command = [sys.executable, "-m", "mountd", "flush", str(at.path), "--timeout", "280"]
    subprocess.run(command, check=True, env=at.environment, timeout=300)


def until(is_so: Callable[[], bool]) -> None:
    """Looks again and again, for two minutes at most."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class _Address:
    authority: str
