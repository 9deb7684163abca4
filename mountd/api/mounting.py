"""`mountd.mount`: a remote as a folder for as long as a `with` block lasts, or until `umount`."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from mountd.api import keeping
from mountd.api.command import TERMINATE, run_command
from mountd.api.options import Options, words_and_secrets
from mountd.api.options import Path as AnyPath
from mountd.errors import StartError


class Mount:
    """A mount that `mountd.mount` has made. Its daemon is a process of its own: it lives on when
    this one is killed, and sends what was written."""

    def __init__(self, source: str, path: Path) -> None:
        self._source = source
        self._path = path
        self._owner_pid = os.getpid()
        self._is_over = False

    @property
    def path(self) -> Path:
        """The mount point, absolute."""
        return self._path

    @property
    def source(self) -> str:
        """What is mounted, as it was given."""
        return self._source

    def __repr__(self) -> str:
        return f"<mountd.Mount {self._source} at {self._path}>"

    def __fspath__(self) -> str:
        return str(self._path)

    def __truediv__(self, name: AnyPath) -> Path:
        return self._path / name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits until all is on the remote (`stop_timeout_s` at most), then unmounts.

        Raises what `umount` raises; where the block was left by an exception, that goes on and
        has it as a note. In a forked child it does nothing.
        """
        if self._is_over or os.getpid() != self._owner_pid:
            return
        try:
            self.umount()
        except StartError as complaint:
            if error is None:
                raise
            error.add_note(f"mountd: {complaint}")

    def flush(self, timeout_s: float | None = None) -> None:
        """As `mountd.flush` of all that is in the mount."""
        keeping.flush(self._path, timeout_s)

    def status(self) -> dict[str, Any]:
        """What `mountd status --json` says of this mount. Raises OSError if it is no mount."""
        found: dict[str, Any] = json.loads((self._path / ".mountd/status.json").read_bytes())
        return found

    def umount(self, timeout_s: float | None = None, *, abandon: bool = False) -> None:
        """Waits until all is on the remote, at most `timeout_s` (default: `stop_timeout_s`), then
        unmounts. A second call does nothing.

        Raises NotAllSent if something isn't sent: it is unmounted, what is left stays on this
        machine's disk, and the next mount of the same source sends it. StartError if files are
        open in it, naming who has them; it stays mounted then. Left by Ctrl-C it stays mounted
        and goes on sending. `abandon`: don't wait, and unmount although it is in use.
        """
        if self._is_over:
            return
        words = ["umount", str(self._path), *(["--abandon"] if abandon else [])]
        if timeout_s is not None:
            words += ["--timeout", f"{timeout_s:g}"]
        try:
            run_command(words, ending=TERMINATE)
        finally:
            self._is_over = not os.path.ismount(self._path)


def mount(
    source: str,
    path: AnyPath,
    *,
    config: AnyPath | None = None,
    **options: Unpack[Options],
) -> Mount:
    """Mounts `source` (`s3://bucket/prefix`, `NAME:path`, ...) at `path`, an existing empty
    directory, and returns when it is usable, as `mountd mount` does. Use it in a `with`
    statement, or call `umount` at the end.

    Options are those of the command line; secrets among them reach the daemon by its environment.
    Raises UsageError, CredentialsError, UnreachableError, MountPointError (also where something
    is mounted there already), or StartError; nothing is mounted then. So also after Ctrl-C.
    """
    words, secrets = words_and_secrets(options, config)
    where = Path(os.path.abspath(path))
    run_command(["mount", source, str(where), *words], secrets)
    return Mount(source, where)
