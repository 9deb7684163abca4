"""What rclone knows of its remotes: rclone.conf, and `RCLONE_CONFIG_<NAME>_<KEY>` beside it.

The file is found as rclone finds it, and only read. The environment wins over it, also when empty,
and `RCLONE_CONFIG_<NAME>_TYPE` alone makes a remote. No message repeats a value.
"""

import configparser
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mountd.config.rclone_obscure import reveal
from mountd.config.source import nearest
from mountd.errors import UsageError

_MAX_BYTES = 4 << 20
_VARIABLE = "RCLONE_CONFIG_"
_OFF = frozenset(("", "false", "f", "0", "off", "unset"))


@dataclass(frozen=True, slots=True)
class RcloneRemote:
    """One remote. `place` says in messages where it stands."""

    name: str
    place: str
    values: Mapping[str, str] = field(repr=False)

    @property
    def type(self) -> str:
        """Raises UsageError."""
        found = self.get("type")
        if not found:
            raise self.error("type is missing; write type = s3, webdav, ...")
        return found

    def get(self, key: str) -> str:
        """ "" where it isn't there. Raises UsageError for control characters."""
        value = self.values.get(key, "")
        if not value.isprintable():
            raise self.error(f"{key} has control characters; write it anew")
        return value

    def is_on(self, key: str) -> bool:
        return self.get(key).lower() not in _OFF

    def password(self, key: str) -> str:
        """What was obscured. Raises UsageError."""
        text = self.get(key)
        try:
            return reveal(text) if text else ""
        except ValueError as error:
            raise self.error(
                f"{key} is not obscured as rclone does it; write what `rclone obscure -` prints"
            ) from error

    def refuse(self, keys: Mapping[str, str]) -> None:
        """Raises UsageError where one of `keys` is in use; the text with it says what to do."""
        for key, instead in keys.items():
            if self.get(key).lower() not in _OFF:
                raise self.error(f"{key} is not supported{instead and '; '}{instead}")

    def error(self, what: str) -> UsageError:
        return UsageError(f"{self.place}: {what}")


@dataclass(frozen=True, slots=True)
class RcloneConfig:
    """`path` is None where there is no file."""

    path: Path | None
    sections: Mapping[str, Mapping[str, str]] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)

    def names(self) -> list[str]:
        """Of the file in its order, then of the environment, in lower case as rclone shows them."""
        known = {name.upper() for name in self.sections}
        made = [name for name in _made_by(self.variables) if name not in known]
        found = [*self.sections, *sorted(name.lower() for name in made)]
        return [name for name in found if name.isprintable()]

    def remote(self, name: str) -> RcloneRemote:
        """Raises UsageError where neither file nor environment has it."""
        start = f"{_VARIABLE}{name.upper()}_"
        given = {
            variable.removeprefix(start).lower(): value
            for variable, value in self.variables.items()
            if variable.startswith(start) and variable != start
        }
        section = self.sections.get(name)
        if section is None and "type" not in given:
            where = str(self.path or "rclone.conf (there is none)")
            hint = nearest(name, self.names()) or f"; type: rclone config, or set {start}TYPE"
            raise UsageError(f"no remote {name!r} in {where}{hint}")
        place = f"environment {start}*" if section is None else f"{self.path} [{name}]"
        return RcloneRemote(name, place, {**(section or {}), **given})


def read_rclone(environ: Mapping[str, str] = os.environ) -> RcloneConfig:
    """Raises UsageError for a file that can't be read; a missing one is none, as for rclone."""
    variables = {name: value for name, value in environ.items() if name.startswith(_VARIABLE)}
    path = _find(environ)
    if path is None:
        return RcloneConfig(None, {}, variables)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return RcloneConfig(None, {}, variables)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path"
        raise UsageError(
            f"cannot read {str(path)!r}: {reason}; mend it, or set RCLONE_CONFIG"
        ) from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is too long for an rclone.conf; set RCLONE_CONFIG to yours")
    return RcloneConfig(path, parse_rclone(data, str(path)), variables)


def parse_rclone(data: bytes, path: str) -> dict[str, dict[str, str]]:
    """Keys and values by section; of a repeated one the last counts. Raises UsageError."""
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text, so no rclone.conf; set RCLONE_CONFIG") from error
    first = next((line for line in lines if line and line[0] not in "#;"), "")
    if first.startswith("RCLONE_ENCRYPT_V"):
        raise UsageError(
            f"{path} is encrypted, and only rclone can read it; type: cp {path} FILE && chmod 600 "
            "FILE && rclone --config FILE config encryption remove, and set RCLONE_CONFIG=FILE"
        )
    for at, line in enumerate(lines):
        if line.startswith("["):
            if not line.endswith("]"):
                raise UsageError(f"{path}:{at + 1}: write KEY = VALUE or [NAME]")
            lines[at] = f"[{line[1:-1].strip()}]"
    parser = _read_lines(lines, path)
    return {
        name: {key: _unquoted(value, f"{path} [{name}]") for key, value in parser.items(name)}
        for name in parser.sections()
    }


def _read_lines(lines: Sequence[str], path: str) -> configparser.RawConfigParser:
    # Without indents there are no continued lines: rclone has none.
    parser = configparser.RawConfigParser(
        strict=False,
        interpolation=None,
        default_section="\n",
        comment_prefixes=("#", ";"),
        empty_lines_in_values=False,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    # `from None`, as these errors hold the line, and a line may hold a password.
    try:
        parser.read_file(line + "\n" for line in lines)
    except configparser.MissingSectionHeaderError as error:
        raise UsageError(f"{path}:{error.lineno}: write [NAME] above the first key") from None
    except configparser.ParsingError as error:
        number = error.errors[0][0] if error.errors else 1
        raise UsageError(f"{path}:{number}: write KEY = VALUE or [NAME]") from None
    except configparser.Error:
        raise UsageError(f"{path} is no rclone.conf; type: rclone config") from None
    return parser


def _unquoted(value: str, place: str) -> str:
    """rclone takes backquotes and three double quotes away, and writes them where it needs them."""
    quote = next((each for each in ("`", '"""') if value.startswith(each)), "")
    if not quote:
        return value
    if len(value) < 2 * len(quote) or not value.endswith(quote):
        raise UsageError(f"{place}: a value has quotes that its line does not close; mend them")
    return value[len(quote) : -len(quote)]


def _find(environ: Mapping[str, str]) -> Path | None:
    if environ.get("RCLONE_CONFIG"):
        return Path(os.path.abspath(os.path.expanduser(environ["RCLONE_CONFIG"])))
    home = environ.get("HOME") or os.path.expanduser("~")
    usual = Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "rclone", "rclone.conf")
    # os.path.exists, because a home that we may not enter has no file for us.
    return next(
        (path for path in (usual, Path(home, ".rclone.conf")) if os.path.exists(path)), None
    )


def _made_by(variables: Mapping[str, str]) -> set[str]:
    found = (re.fullmatch(rf"{_VARIABLE}(.+)_TYPE", name) for name in variables)
    return {match[1] for match in found if match}
