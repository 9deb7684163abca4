"""Argument parsing with one-line errors."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from mountd.config.file import ConfigFile
from mountd.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UsageErrors."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"mountd {command}", description=description, allow_abbrev=False)
        self._takes_options = False

    def error(self, message: str) -> NoReturn:
        """Raises UsageError instead of printing the usage and exiting."""
        hint = self._as_option(message)
        raise UsageError(f"{self.prog.partition(' ')[2]}: {message}; {hint}see {self.prog} --help")

    def _as_option(self, message: str) -> str:
        """For who writes `--read-only`, as with other programs: all such words at once."""
        _, unknown, words = message.partition("unrecognized arguments: --")
        if not (unknown and self._takes_options):
            return ""
        from mountd.config.options import OPTIONS

        flags = [word[2:].partition("=") for word in f"--{words}".split() if word[:2] == "--"]
        named = [(flag.replace("-", "_"), value) for flag, _, value in flags]
        ours = [name + (f"={value}" if value else "") for name, value in named if name in OPTIONS]
        found = f"write -o {','.join(ours)}; " if ours else ""
        return found + ("options are written -o KEY=VALUE; " if len(ours) < len(named) else "")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Options may stand before, between and after the positional arguments."""
        return self.parse_intermixed_args(arguments)

    def add_config(self) -> None:
        """`--config FILE`."""
        self.add_argument("--config", metavar="FILE", help="instead of the usual config file")

    def add_options(self, said: str = "options; mountd mount --help lists them") -> None:
        """`-o KEY=VALUE,...`."""
        self._takes_options = True
        self.add_argument(
            "-o",
            dest="options",
            action="append",
            default=[],
            metavar="KEY=VALUE[,KEY=VALUE...]",
            help=said,
        )

    def add_report(self) -> None:
        """`--report-fd N`, for Python programs (report.py)."""
        self.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)


def seconds(text: str) -> float:
    """An argparse type: seconds, 0 or more, at most a week."""
    number = float(text)
    if not 0 <= number <= 7 * 86400:
        raise ValueError(text)
    return number


def load_config(named: str | None) -> ConfigFile:
    """The config file that holds, its warnings printed. Raises UsageError."""
    import os

    from mountd.cli.output import warn
    from mountd.config import file as config_file

    config = config_file.load_config(config_file.find_config(named, os.environ))
    for warning in config.warnings:
        warn(warning)
    return config
