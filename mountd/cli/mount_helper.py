"""`mount.mountd` and `umount.mountd`: what mount(8), umount(8) and fstab call ("EXTERNAL HELPERS").

mount.mountd SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
umount.mountd DIR [-flnrv] [-N NAMESPACE] [-t TYPE]

Installed as mount.fuse.mountd too: that is the type in the mount table, and umount(8) goes by it.
"""

import sys
from argparse import SUPPRESS
from collections.abc import Callable, Sequence

from mountd.cli import main
from mountd.cli.arguments import Parser
from mountd.config.credentials import credential_of
from mountd.config.options import OPTIONS, is_from_fstab, split_option_list
from mountd.errors import ExitCode, UsageError

# mount(8), "EXIT STATUS". 75 passes as it is: umount(8) hands a helper's code on, and systemd then
# shows the .mount unit as failed, which is how an operator hears that something is left.
_WRONG_CALL, _FAILED = 1, 32
# What mount(8) adds for itself, with a value or of a kind that a FUSE mount has not.
_OF_MOUNT = frozenset(("user", "uhelper", "helper", "iversion", "noiversion", "silent", "loud"))


def mount(argv: Sequence[str] | None = None) -> int:
    """0 when DIR answers; 1 for a wrong call or option, 32 where it can't be mounted. -f does
    nothing else than check; -s leaves out what mountd doesn't know; -n and -v mean nothing here."""
    parser = _parser("mount.mountd", "Mounts SOURCE on DIR, for mount(8).", "sfnv")
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")

    def act() -> list[str]:
        parsed = parser.read(sys.argv[1:] if argv is None else argv)
        options = translated(parsed.options, sloppy=parsed.s)
        command = ["mount", parsed.source, parsed.directory]
        command += ["-o", options] if options else []
        return [] if parsed.f else command

    return _run(act)


def umount(argv: Sequence[str] | None = None) -> int:
    """0 when DIR is unmounted and all is on the remote, 75 when something of it is left on disk.
    -l and -f don't wait for the remote."""
    parser = _parser("umount.mountd", "Unmounts DIR, for umount(8).", "flnrv")
    parser.add_argument("directory", metavar="DIR")

    def act() -> list[str]:
        parsed = parser.read(sys.argv[1:] if argv is None else argv)
        at_once = ["--abandon"] if parsed.l or parsed.f else []
        return ["umount", *at_once, parsed.directory]

    return _run(act)


def translated(option_lists: Sequence[str], *, sloppy: bool) -> str:
    """What `mountd mount -o` takes of what fstab and mount(8) gave. Raises UsageError for a
    remount, which FUSE can't do."""
    kept = []
    for key, value in (pair for text in option_lists for pair in split_option_list(text)):
        if key == "remount":
            raise UsageError("a mount of mountd can't be remounted; umount it and mount it again")
        if key in ("ro", "rw") or (not is_from_fstab(key, value) and key not in _OF_MOUNT):
            known = key in OPTIONS or key in ("ro", "rw") or credential_of(key) is not None
            if known or not sloppy:
                kept.append(_as_option(key, value))
    return ",".join(kept)


def _as_option(key: str, value: str | None) -> str:
    return key if value is None else f"{key}={value}".replace(",", "\\,")


def _parser(name: str, description: str, flags: str) -> Parser:
    parser = Parser("mount", description)
    parser.prog = name
    for flag in flags:
        parser.add_argument(f"-{flag}", action="store_true", help=SUPPRESS)
    for option in ("-N", "-t"):
        parser.add_argument(option, help=SUPPRESS)
    return parser


def _run(act: Callable[[], list[str]]) -> int:
    try:
        command = act()
    except UsageError as error:
        print(f"mountd: {error}", file=sys.stderr)
        return _WRONG_CALL
    except SystemExit:  # --help
        return int(ExitCode.OK)
    code = main(command) if command else int(ExitCode.OK)
    if code in (ExitCode.OK, ExitCode.LEFT_IN_QUEUE):
        return code
    return _WRONG_CALL if code == ExitCode.USAGE else _FAILED
