"""`mountd copy SOURCE DEST`: all of SOURCE to DEST, as far as it isn't there."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from mountd.allocator import keep_freed_memory
from mountd.cli.arguments import Parser, load_config
from mountd.cli.copy_by_remote import open_server_copy
from mountd.cli.copy_manifest import Described, manifest_path
from mountd.cli.copy_sides import (
    MountedAt,
    Place,
    as_file,
    cache_dir_of,
    check_apart,
    find_place,
    open_side,
    refresh,
)
from mountd.cli.copy_words import (
    ended_facts,
    foretold,
    going_facts,
    going_words,
    summary,
    why,
)
from mountd.cli.flush import flush, targets_at
from mountd.cli.output import print_line, printable, warn
from mountd.cli.progress import Progress, progress
from mountd.cli.report import Report
from mountd.config.load import read_command_line
from mountd.errors import ExitCode, RemoteError, StartError, UsageError
from mountd.in_words import counted
from mountd.manifest import is_manifest
from mountd.safe_place import why_not_safe
from mountd.transfer.crew import Rate, Tally
from mountd.transfer.filters import read_filter
from mountd.transfer.items import key_at
from mountd.transfer.record import Record
from mountd.transfer.run import NothingThere, Outlook, Run, Wish
from mountd.transfer.side import Side

_MOST_NAMED = 20
_DELETE_ALL = "--delete=force"


class NotAllCopied(StartError):
    """Some files were not copied; the message names them."""


def run(arguments: Sequence[str]) -> int:
    """0 when DEST has all of SOURCE; else 1, or what kept it from being begun."""
    words = ["--delete-all" if word == _DELETE_ALL else word for word in arguments]
    wrong = next((word for word in words if word.startswith("--delete=")), None)
    if wrong is not None:
        raise UsageError(f"copy: {wrong}: write --delete or {_DELETE_ALL}")
    parsed = _parser().read(words)
    config = load_config(parsed.config)
    command_line = read_command_line(parsed.options)
    wish = Wish(
        verify=parsed.verify,
        delete=parsed.delete or parsed.delete_all,
        delete_all=parsed.delete_all,
        filter=read_filter(parsed.include, parsed.exclude),
        jobs=parsed.jobs,
        dry_run=parsed.dry_run,
    )
    if parsed.dest is None:
        return _only_list(parsed, arguments)
    listed = manifest_path(parsed.manifest) if parsed.manifest else None
    if is_manifest(parsed.dest):
        raise UsageError(f"copy: DEST {parsed.dest} is a manifest; write one with --manifest FILE")
    places = [find_place(text, config, command_line) for text in (parsed.source, parsed.dest)]
    source, target = places
    if target.only:
        raise UsageError(f"copy: DEST {target.text} is a file; give a directory")
    cache_dir = cache_dir_of(places, config, command_line)
    check_apart(source, target, cache_dir, deletes=wish.delete)
    report = Report(parsed.report_fd)
    with progress() as shown:
        for place in places:
            if place.mounted is not None:
                send_dirty(place.mounted, shown)
        # Where nothing is below the name of SOURCE it may be a file, or empty: an object store
        # can't tell an empty folder from none.
        file = as_file(source)
        ways = [(source, wish), *([(file, wish)] if file else [])]
        ways += [(source, replace(wish, may_be_empty=True))] if wish.delete else []
        for place, asked in ways[:-1]:
            with suppress(NothingThere):
                return _copy(place, target, cache_dir, asked, shown, report, listed)
        place, asked = ways[-1]
        return _copy(place, target, cache_dir, asked, shown, report, listed)


def _only_list(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """`copy --manifest FILE SOURCE`: nothing is copied."""
    from mountd.cli import manifest

    if not parsed.manifest:
        raise UsageError("copy: DEST is missing; see mountd copy --help")
    if parsed.delete or parsed.delete_all or parsed.dry_run:
        raise UsageError("copy: without DEST nothing is copied or deleted; leave the option out")
    words = [parsed.manifest, parsed.source, *(["--checksums"] if parsed.verify else [])]
    for name in ("include", "exclude"):
        words += [f"--{name}={glob}" for glob in getattr(parsed, name)]
    words += [word for text in parsed.options for word in ("-o", text)]
    return manifest.run([*words, *(["--config", parsed.config] if parsed.config else [])])


def _parser() -> Parser:
    parser = Parser("copy", "Copies all that is in SOURCE into DEST; SOURCE is never changed.")
    parser.add_argument("source", metavar="SOURCE", help="a URL, NAME:path, or a local path")
    parser.add_argument("dest", nargs="?", metavar="DEST", help="the same; a directory")
    parser.add_argument(
        "--manifest", metavar="FILE", help="write what was copied, with versions, into FILE"
    )
    parser.add_argument("--verify", action="store_true", help="compare checksums, too")
    parser.add_argument(
        "--delete",
        action="store_true",
        help=f"remove from DEST what is not in SOURCE; {_DELETE_ALL} even if SOURCE is empty",
    )
    parser.add_argument("--delete-all", action="store_true", help="the same as --delete=force")
    for name, what in (("include", "only"), ("exclude", "not")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="GLOB", help=f"{what} these files"
        )
    parser.add_argument("--jobs", type=_jobs, metavar="N", help="how many at once")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_config()
    parser.add_options()
    parser.add_report()
    return parser


def _jobs(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 0 < number <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1024")
    return number


def _copy(
    source: Place,
    target: Place,
    cache_dir: Path,
    wish: Wish,
    shown: Progress,
    report: Report,
    listed: Path | None,
) -> int:
    keep_freed_memory()
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    why = why_not_safe(cache_dir.resolve())
    if why:
        raise StartError(f"{why}; or give another cache with -o cache_dir=DIR")
    name = f"{source.text}{' ' + source.only if source.only else ''}"
    with ExitStack() as stack:
        record = stack.enter_context(Record.open(cache_dir, name, target.text))
        sides = [open_side(place, record.folder) for place in (source, target)]
        server = open_server_copy(source, target, record.folder)
        for store in (*(side.store for side in sides), *([server.store] if server else ())):
            stack.callback(store.close)
        if source.only:  # then nothing else at DEST matters
            sides[1] = replace(sides[1], only=source.only)
        audience = _Shown(shown, report, wish, f"{source.text} -> {target.text}")
        copy = Run(sides[0], sides[1], record, wish, audience, server)
        try:
            outlook = copy.go()
        except KeyboardInterrupt:
            audience.broken_off(copy)
            raise
        _report(report, copy, outlook, wish)
        if target.mounted is not None and not wish.dry_run:
            _look_anew(target.mounted)
        is_listed = listed is not None and not wish.dry_run and not copy.tally.failures
        described = _described(copy, (source, target), sides, wish) if is_listed else None
    code = _end(copy, outlook, wish)
    if described is not None and listed is not None:
        manifest = described.write(listed)
        print_line(f"{listed}: the versions of {counted(len(manifest.files), 'file')}")
    return code


def _described(
    copy: Run, places: tuple[Place, Place], sides: Sequence[Side], wish: Wish
) -> Described:
    """DEST if that is a remote, else SOURCE: where others can reach it. With `verify` also by the
    checksums that it tells."""
    described = Described()
    is_dest = places[1].source is not None
    items = [item for item, _ in copy.at_target()]
    if is_dest:
        items = [
            replace(item, path=key_at(item, local=False), version=version, is_link=False)
            for item, version in copy.at_target()
        ]
    if wish.verify:
        described.add_sums(sides[is_dest], places[is_dest], items, "")
    else:
        described.add(places[is_dest], items)
    return described


def send_dirty(at: MountedAt, shown: Progress) -> None:
    """Returns when all that was written there is on the remote: that is where it is read."""
    complaints: list[str] = []
    code = flush(list(targets_at(at.path, None)), None, shown, complaints)
    if complaints:
        error = StartError("; ".join(complaints))
        error.exit_code = code
        raise error


def _look_anew(at: MountedAt) -> None:
    try:
        refresh(at)
    except StartError as error:
        warn(f"{at.path} may show the old files for a while: {error}")


class _Shown:
    """Tells on stdout what will be done, on stderr how it goes."""

    def __init__(self, shown: Progress, report: Report, wish: Wish, names: str) -> None:
        self._shown = shown
        self._report = report
        self._wish = wish
        self._names = names
        self._named: set[str] = set()
        self._looked_s = 0.0
        self._outlook: Outlook | None = None

    def will(self, outlook: Outlook) -> None:
        self._outlook = outlook
        for path in outlook.specials[:_MOST_NAMED]:
            warn(f"{printable(path)} is skipped: it is no file")
        more = len(outlook.specials) - _MOST_NAMED
        if more > 0:
            warn(f"{counted(more, 'other')} skipped: pipes, sockets or devices")
        print_line(f"{self._names}: {foretold(outlook)}")
        if self._wish.dry_run:
            for copy in outlook.plan.copies:
                print_line(f"copy {copy.item.path}")
            for item in outlook.plan.deletes:
                print_line(f"delete {item.path}")
            for path in outlook.plan.folders:
                print_line(f"make {path}/")
            for path in outlook.plan.old_folders:
                print_line(f"remove {path}/")
        sys.stdout.flush()

    def going(self, outlook: Outlook, tally: Tally, rate: Rate) -> None:
        for path in list(tally.failures):
            if path not in self._named and len(self._named) < _MOST_NAMED:
                self._named.add(path)
                self._shown.say(f"{path}: {why(tally.failures[path])}")
        if time.monotonic() - self._looked_s > 0.2:
            self._looked_s = time.monotonic()
            self._shown.show(going_words(outlook, tally, rate))
            self._report.going(going_facts(outlook, tally, rate))

    def broken_off(self, copy: Run) -> None:
        """Ctrl-C: what is at DEST by now, as far as it was begun."""
        if self._outlook is None:
            self._shown.say("interrupted; nothing was changed")
            return
        planned = counted(len(self._outlook.plan.copies), "file")
        self._shown.say(
            f"interrupted; {copy.tally.files} of {planned} copied; the same command again copies "
            "what is missing"
        )


def _report(report: Report, copy: Run, outlook: Outlook, wish: Wish) -> None:
    paths = [one.item.path for one in outlook.plan.copies] if wish.dry_run else []
    failures = {path: why(error) for path, error in copy.tally.failures.items()}
    if not wish.dry_run:
        report.going(going_facts(outlook, copy.tally, copy.rate), is_last=True)
    report.ended(ended_facts(outlook, copy.tally, copy.rate) | {"paths": paths}, failures)


def _end(copy: Run, outlook: Outlook, wish: Wish) -> int:
    tally = copy.tally
    if not wish.dry_run:
        print_line(summary(outlook, tally, copy.rate))
    if not tally.failures:
        return ExitCode.OK
    named = [f"{printable(path)}: {why(error)}" for path, error in list(tally.failures.items())[:5]]
    more = len(tally.failures) - len(named)
    rest = f"; and {more} more" if more else ""
    stopped = "; it was stopped" if tally.stop.is_set() else ""
    what = counted(len(tally.failures), "file")
    error = NotAllCopied(f"{what} not copied{stopped}: {'; '.join(named)}{rest}")
    error.exit_code = _code(list(tally.failures.values()))
    raise error


def _code(errors: list[Exception]) -> ExitCode:
    from mountd.cli import exit_code_of

    codes = {
        exit_code_of(error) if isinstance(error, RemoteError) else ExitCode.RUNTIME
        for error in errors
    }
    return codes.pop() if len(codes) == 1 else ExitCode.RUNTIME
