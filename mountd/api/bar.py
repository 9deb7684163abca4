"""A bar of rich's for a copy or a warming, in a terminal or a notebook."""

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mountd.api.copying import CopyProgress
from mountd.api.keeping import WarmProgress


class _Bar:
    """A context manager; what was shown stays."""

    def __init__(self, what: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def _update(self, words: str, have: int, whole: int, failed: int) -> None:
        words += f", {failed} failed" if failed else ""
        self._progress.update(self._task, description=words, completed=have, total=whole)


class CopyBar(_Bar):
    """Files and bytes."""

    def __init__(self) -> None:
        super().__init__("listing")

    def show(self, now: CopyProgress) -> None:
        """How far it is."""
        words = f"{now.files} of {now.total_files} files"
        self._update(words, now.bytes, now.total_bytes, now.failed)


class WarmBar(_Bar):
    """Bytes."""

    def __init__(self) -> None:
        super().__init__("listing")

    def show(self, now: WarmProgress) -> None:
        """How far it is."""
        self._update("warming", now.bytes, now.total_bytes, now.failed)
