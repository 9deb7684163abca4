"""The command `mountd`: finds the subcommand, runs it, and turns every end into an exit code.

Commands are imported when they are run: `mountd --help` takes 50 ms, most of it Python's start.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from mountd.errors import (
    ContainerMissing,
    Denied,
    ExitCode,
    RemoteError,
    StartError,
    Throttled,
    Unreachable,
    UsageError,
)

# name: (module below mountd.cli, one line of help)
COMMANDS = {
    "mount": ("mount", "mount SOURCE, or a mount of the config file"),
    "umount": ("umount", "wait until all is on the remote, then unmount"),
    "status": ("status", "what is mounted, and how it is"),
    "flush": ("flush", "wait until everything at PATH is on the remote"),
    "queue": ("queue", "what is not on the remote yet; retry or discard it"),
    "refresh": ("refresh", "have the remote asked anew at the next look at PATH"),
    "copy": ("copy", "copy SOURCE to DEST: only what is not there, and again what broke off"),
    "manifest": ("manifest", "write the files of several SOURCEs, with versions, into one list"),
    "warm": ("warm", "fill the cache with all of PATH"),
    "pin": ("pin", "keep all of PATH on the local disk"),
    "unpin": ("unpin", "let PATH be evicted again"),
    "login": ("login", "sign in to a Nextcloud by browser"),
    "remotes": ("remotes", "list the remotes of the config file, and try them"),
    "sidecar": ("sidecar", "in a container: mount what the environment says"),
    "upgrade": ("upgrade", "go on with the code that is installed now, mount and files staying"),
    "tune": ("tune", "as root: give the kernel's side of a user's mount its full speed"),
    "doctor": ("doctor", "check this machine, and SOURCE if one is given"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (docs/commands.md). Never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except StartError as error:
        return _fail(str(error), error.exit_code)
    except RemoteError as error:
        return _fail(str(error) or type(error).__name__, exit_code_of(error))
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else int(ExitCode.OK)
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        return _fail_unexpectedly(error, arguments)


def exit_code_of(error: RemoteError) -> ExitCode:
    """The exit code for an error of a remote that ends a command."""
    if isinstance(error, Denied):
        return ExitCode.CREDENTIALS
    if isinstance(error, Unreachable | Throttled | ContainerMissing):
        return ExitCode.UNREACHABLE
    return ExitCode.RUNTIME


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return ExitCode.OK if arguments else ExitCode.USAGE
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"mountd {version('mountd')}")
        return ExitCode.OK
    name = arguments[0]
    if name not in COMMANDS:
        from mountd.config.source import nearest

        hint = nearest(name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}{hint}")
    return int(import_module(f"mountd.cli.{COMMANDS[name][0]}").run(arguments[1:]))


def _overview() -> str:
    lines = [f"  {name:10}{help_line}" for name, (_, help_line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mountd COMMAND ...",
            "",
            "Mounts S3, GCS, Azure, WebDAV and other remotes as an ordinary folder.",
            "",
            *lines,
            "",
            "mountd COMMAND --help tells the rest.",
            "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 credentials, 4 unreachable,",
            "5 mount point, 75 something is not on the remote yet, and is kept on this disk.",
        ]
    )


def _fail(message: str, code: ExitCode) -> int:
    line = " ".join(message.split())
    print(f"mountd: {line}", file=sys.stderr)
    return int(code)


def _fail_unexpectedly(error: Exception, arguments: list[str]) -> int:
    from mountd.cli.unexpected import report

    return _fail(report(error, arguments), ExitCode.RUNTIME)
