"""`mountd.copy`: what `mountd copy` does, with its figures."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from mountd.api.command import run_command
from mountd.api.options import Options, words_and_secrets
from mountd.api.options import Path as AnyPath
from mountd.errors import ExitCode, StartError


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is. `bytes` includes what an earlier, interrupted copy had brought."""

    files: int
    bytes: int
    total_files: int
    total_bytes: int
    bytes_per_s: float
    failed: int


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a copy has done. `planned_*`: what was to be copied when it began; with `dry_run` only
    these and `unchanged` are counted. `paths`: with `dry_run`, what would be copied."""

    source: str
    dest: str
    files: int
    bytes: int
    unchanged: int
    deleted: int
    skipped: int
    unchecked: int
    planned_files: int
    planned_bytes: int
    seconds: float
    paths: tuple[str, ...] = ()


class CopyFailed(StartError):
    """Some files were not copied; all others were. `failures` has why, by path; another call of
    `copy` copies only what is missing."""

    def __init__(self, message: str, failures: Mapping[str, str], summary: CopySummary) -> None:
        super().__init__(message)
        self.failures = dict(failures)
        self.summary = summary


def copy(
    source: AnyPath,
    dest: AnyPath,
    *,
    verify: bool = False,
    delete: bool | Literal["force"] = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int | None = None,
    dry_run: bool = False,
    manifest: AnyPath | None = None,
    progress: Callable[[CopyProgress], None] | Literal["rich"] | None = None,
    config: AnyPath | None = None,
    **options: Unpack[Options],
) -> CopySummary:
    """Copies all that is in `source` into `dest`, as far as it isn't there (docs/copy.md). Both are
    URLs, `NAME:path`, or local paths; paths in a mount go straight to its remote.

    `progress` is called several times a second, in the calling thread; "rich" shows a bar in a
    terminal or a notebook. What it raises ends the copy. Raises CopyFailed where files could not
    be copied, and StartError or its children where it could not begin. A copy that was ended goes
    on where it was when it is called again.
    """
    words, secrets = words_and_secrets(options, config)
    words += [f"--{name}" for name, on in (("verify", verify), ("dry-run", dry_run)) if on]
    words += ["--delete=force" if delete == "force" else "--delete"] if delete else []
    words += [f"--{name}={glob}" for name, globs in _globs(include, exclude) for glob in globs]
    words += [f"--jobs={jobs}"] if jobs is not None else []
    words += [f"--manifest={os.fspath(manifest)}"] if manifest is not None else []
    if progress == "rich":
        from mountd.api.bar import CopyBar

        with CopyBar() as bar:
            return _copy([_place(source), _place(dest)], words, secrets, bar.show)
    return _copy([_place(source), _place(dest)], words, secrets, progress)


def _globs(
    include: Sequence[str], exclude: Sequence[str]
) -> tuple[tuple[str, Sequence[str]], tuple[str, Sequence[str]]]:
    for given in (include, exclude):
        if isinstance(given, str):  # one would be taken for its letters
            raise TypeError("include and exclude are lists of globs")
    return ("include", include), ("exclude", exclude)


def _place(given: AnyPath) -> str:
    """As the command takes it: a `Path` is one even where it looks like `NAME:path`."""
    return given if isinstance(given, str) else os.path.abspath(given)


def _copy(
    places: list[str],
    words: list[str],
    secrets: Mapping[str, str],
    progress: Callable[[CopyProgress], None] | None,
) -> CopySummary:
    ended: dict[str, Any] = {}
    failures: dict[str, str] = {}

    def hear(said: dict[str, Any]) -> None:
        if "going" in said and progress is not None:
            progress(CopyProgress(**said["going"]))
        elif "ended" in said:
            ended.update(said["ended"])
            failures.update(said["failures"])

    try:
        run_command(["copy", *words, *places], secrets, hear=hear)
    except StartError as error:
        if not failures:
            raise
        failed = CopyFailed(str(error), failures, _summary(places, ended))
        failed.exit_code = ExitCode(error.exit_code)
        raise failed from None
    return _summary(places, ended)


def _summary(places: list[str], ended: dict[str, Any]) -> CopySummary:
    source, dest = places
    facts = {**ended, "paths": tuple(ended["paths"])}
    return CopySummary(source=source, dest=dest, **facts)
