"""`mountd mount`: in this process with --foreground, else in a child that outlives us."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from mountd.cli import exit_code_of
from mountd.cli.arguments import Parser, load_config
from mountd.cli.output import warn
from mountd.cli.ready import ReadyPipe
from mountd.cli.unexpected import report
from mountd.config import MountPlan
from mountd.config.load import plan_mount, read_command_line
from mountd.config.source import missing_directory
from mountd.errors import ExitCode, RemoteError, StartError, UsageError
from mountd.kept import told
from mountd.kept.descriptors import KEPT, ONLY_LOOK, REPLACES
from mountd.own_command import own_command

# How long a start may take beyond one request's time: SQLite, recovery, a slow disk.
_START_GRACE_S = 60.0


def run(arguments: Sequence[str]) -> int:
    """Returns 0 when the mount is usable. With --foreground the process ends with the mount."""
    if told.TOLD in os.environ or KEPT in os.environ:
        told.listen()
    only_looks = bool(os.environ.pop(ONLY_LOOK, ""))
    _go_where_it_was_typed()
    parser = _parser()
    parsed = parser.read(arguments)
    if len(parsed.names) > 2:
        parser.error(f"too many arguments: {' '.join(parsed.names[2:])}")
    ready = ReadyPipe(parsed.ready_fd)
    try:
        mountpoint = parsed.names[1] if len(parsed.names) == 2 else None
        plan = plan_mount(
            parsed.names[0],
            mountpoint,
            load_config(parsed.config),
            read_command_line(parsed.options),
        )
        plan = replace(plan, on_volume=parsed.on_volume)
        _check_there(plan)
        if only_looks:
            import_module("mountd.daemon")
            return ExitCode.OK
        if not parsed.foreground:
            return _start_child(plan, arguments)
        if parsed.log_dir is not None:
            os.chdir("/")  # keep no other file system busy
        _serve(plan, ready, parsed.log_dir)
    except StartError as error:
        ready.failed(str(error), error.exit_code)
        raise
    except RemoteError as error:  # of a package that connects when it is opened (SFTP)
        ready.failed(str(error), exit_code_of(error))
        raise
    finally:
        ready.close()


def _parser() -> Parser:
    import argparse

    parser = Parser("mount", "Mounts SOURCE on MOUNTPOINT, or the mount NAME of the config file.")
    parser.usage = (
        "mountd mount SOURCE MOUNTPOINT [-o KEY=VALUE[,KEY=VALUE...]]... [--config FILE]\n"
        "                    [--foreground]\n"
        "       mountd mount NAME [the same]"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _epilog()
    parser.add_argument(
        "names",
        nargs="+",
        metavar="SOURCE MOUNTPOINT",
        help="such as s3://bucket/prefix /storage, where /storage is an empty folder",
    )
    parser.add_options("options, see below")
    parser.add_config()
    parser.add_argument(
        "--foreground", action="store_true", help="be the daemon; log to standard error"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--log-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on-volume", action="store_true", help=argparse.SUPPRESS)
    return parser


def _epilog() -> str:
    from mountd.cli.option_words import options_in_words

    return "\n".join(
        [
            "KEY of -o, also MOUNTD_<KEY> in the environment, and in the config file:",
            options_in_words(),
            "",
            "Secrets never go on the command line: MOUNTD_PASSWORD and its like, a file by",
            "-o password_file=PATH, or the provider's own chain. docs/config.md has them all.",
        ]
    )


def _check_there(plan: MountPlan) -> None:
    """A local directory that is missing is mounted only where it was mounted before: its disk may
    be away, and what waits for it must be seen."""
    directory = missing_directory(plan.source)
    if not directory:
        return
    from mountd.cache_folder import identity_name

    folder = plan.settings.cache_dir / identity_name(plan.source, plan.settings)
    if not (folder / "journal" / "journal.db").exists():
        raise UsageError(
            f"SOURCE {plan.source.text}: {directory} does not exist; give an existing directory"
        )


def _checked(plan: MountPlan, *, replaces: bool = False) -> MountPlan:
    """The plan with the mount point as the kernel will spell it, without symlinks. `replaces`: in
    the place of a mount that was let go, perhaps by somebody who has not heard of that yet."""
    from mountd.mount_point import check_fuse, check_mount_point

    check_fuse(plan.settings.allow_other)
    return replace(plan, mountpoint=check_mount_point(plan, replaces=replaces))


def _serve(plan: MountPlan, ready: ReadyPipe, log_dir: Path | None) -> NoReturn:
    from mountd.kept.store import left_to_us
    from mountd.logs import setup_logging

    setup_logging(plan.settings, log_dir)
    left = left_to_us()
    if left is None:
        plan = _checked(plan, replaces=bool(os.environ.pop(REPLACES, "")))
    from mountd import daemon  # only here: it brings trio, pyfuse3 and the caches
    from mountd.kept.going_on import GoingOn

    going_on = GoingOn(plan, left)
    if left is not None and not going_on.is_successor:
        going_on.plan = _checked(going_on.plan, replaces=True)
    try:
        code = int(daemon.run(going_on, ready.tell))
    except (StartError, RemoteError):
        raise
    except Exception as error:  # a defect: whoever goes on is not to wait for threads of pools
        print(f"mountd: {report(error, sys.argv)}", file=sys.stderr)
        code = ExitCode.RUNTIME
    _end(code)


def _go_where_it_was_typed() -> None:
    """A daemon in the background that is started: paths may be relative. A successor doesn't look
    at a place on a mount, which may be the one that waits for it."""
    directory = os.environ.get("MOUNTD_START_DIR", "")
    if not directory:
        return
    from mountd.mount_table import is_below, read_mounts

    mounts = read_mounts() if KEPT in os.environ else []
    if not any(mount.is_ours and is_below(directory, mount.path) for mount in mounts):
        with suppress(OSError):
            os.chdir(directory)


def _end(code: int) -> NoReturn:
    """At once: Python would join the threads of pools first, and one that sends a part to a server
    that says nothing keeps a process for a minute. Everything is closed by now."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _start_child(plan: MountPlan, arguments: Sequence[str]) -> int:
    from mountd.cache_folder import LOG_DIR, check_free, is_volatile, prepare_folder
    from mountd.cli.background import start_in_background

    plan = _checked(plan)
    folder = prepare_folder(plan.source, plan.settings, plan.mountpoint)
    check_free(folder, plan.source)  # before the child writes into the other daemon's log
    if is_volatile(folder):
        warn(
            f"the cache at {plan.settings.cache_dir} does not survive a restart of the machine or "
            "container; give a cache_dir on a disk or a volume"
        )
    log_dir = folder / LOG_DIR
    command = [*own_command(), "mount", *arguments, "--foreground"]
    command += ["--log-dir", str(log_dir)]
    return start_in_background(
        command, log_dir, timeout_s=plan.settings.request_timeout_s + _START_GRACE_S
    )
