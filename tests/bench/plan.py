"""What a whole run goes by, and what writers are asked to do in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cases import Case, Sizes
from tests.bench.nginx import Front
from tests.bench.profiling import Profiling
from tests.bench.readers import Reader
from tests.bench.remote_state import RemoteState
from tests.bench.workers import Outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """What holds for a whole run. `time_s` is the most that one case may read or write for."""

    sizes: Sizes
    cases: dict[str, Case]
    wanted: frozenset[str]
    time_s: float
    folder: Path
    profiling: Profiling | None = None
    front: Front | None = None

    @property
    def long_s(self) -> float:
        """The most for what only says something when it ends: an untar, an upload's arrival."""
        return 5 * self.time_s


@dataclass(frozen=True, slots=True)
class Act:
    """What writers do (measured as `case`, from their start to the last close) and when the remote
    has it (measured as `until`, from the last close, or `from_start`). "" is no row.

    `wanted` says what the server must have after what was done.
    """

    case: str
    writers: Sequence[Reader]
    wanted: Callable[[Outcome], RemoteState]
    until: str = ""
    from_start: bool = False
    disk_mb_s: float = 0.0
