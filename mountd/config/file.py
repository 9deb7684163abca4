"""The TOML config file: `[defaults]`, `[remotes.NAME]`, `[mounts.NAME]` (docs/config.md).

[defaults]
cache_size = "20GiB"

[remotes.lab]
source = "s3://lab"                # or url
endpoint = "https://s3.lab.example"
access_key_id = "AKIA..."
secret_access_key_file = "~/.config/mountd/lab.key"

[mounts.data]
source = "lab:data"
mountpoint = "/storage"
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mountd.config import CopiedSubtree
from mountd.config.credentials import CREDENTIALS, FILE_SUFFIX, credential_of, read_secret_file
from mountd.config.options import OPTIONS, read_option
from mountd.config.source import OWN_SCHEMES, nearest
from mountd.config.subtrees import read_subtrees
from mountd.errors import UsageError

_OF_A_REMOTE = frozenset(("source", "url"))
_OF_A_MOUNT = frozenset(("source", "url", "mountpoint"))
_SECTIONS = frozenset(("defaults", "remotes", "mounts"))


@dataclass(frozen=True, slots=True)
class Section:
    """One section, checked. `options` holds values as `Settings` takes them.

    `credentials` are read from their files only by `Section.secrets`, so that one missing file
    spoils its own remote and no other.
    """

    title: str
    source: str | None = None
    mountpoint: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    base: Path = Path("/")
    copies: tuple[CopiedSubtree, ...] = ()

    def secrets(self) -> dict[str, str]:
        """The credentials by name, `*_file` entries read. Raises UsageError."""
        found = {}
        for key, value in self.credentials.items():
            name = key.removesuffix(FILE_SUFFIX)
            is_file = name != key and key not in CREDENTIALS
            found[name] = (
                read_secret_file(value, f"{self.title} {key}", self.base) if is_file else value
            )
        return found


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A config file, or nothing (`path` None) where there is none."""

    path: Path | None = None
    defaults: Section = field(default_factory=lambda: Section("[defaults]"))
    remotes: Mapping[str, Section] = field(default_factory=dict)
    mounts: Mapping[str, Section] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find_config(named: str | None, environ: Mapping[str, str]) -> Path | None:
    """`--config`, `$MOUNTD_CONFIG`, then the first of the usual places that exists."""
    if named or environ.get("MOUNTD_CONFIG"):
        return Path(named or environ["MOUNTD_CONFIG"]).expanduser().absolute()
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    usual = (Path(home) / "mountd/config.toml", Path("/etc/mountd/config.toml"))
    return next((path for path in usual if os.path.lexists(path)), None)


def load_config(path: Path | None) -> ConfigFile:
    """The file, checked as a whole. Raises UsageError naming file, line or section, and key."""
    if path is None:
        return ConfigFile()
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    return _Reader(path, text).read(document)


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def read(self, document: dict[str, Any]) -> ConfigFile:
        for key in document:
            if key not in _SECTIONS:
                raise UsageError(
                    f"{self._place('', key)}: unknown section or key {key!r}"
                    f"{nearest(key, _SECTIONS)}; write [defaults], [remotes.NAME] or [mounts.NAME]"
                )
        config = ConfigFile(
            path=self._path,
            defaults=self._section("defaults", document.get("defaults", {}), frozenset()),
            remotes=self._sections(document, "remotes", _OF_A_REMOTE),
            mounts=self._sections(document, "mounts", _OF_A_MOUNT),
        )
        return self._with_warnings(config)

    def _sections(
        self, document: dict[str, Any], kind: str, own: frozenset[str]
    ) -> dict[str, Section]:
        table = document.get(kind, {})
        if not isinstance(table, dict):
            raise UsageError(f"{self._place('', kind)}: {kind} is a table: write [{kind}.NAME]")
        found = {}
        for name, values in table.items():
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name) or name == "rclone":
                raise UsageError(
                    f"{self._place(f'{kind}.{name}', '')}: the name {name!r} cannot be used; "
                    "take letters, digits, - and _"
                )
            section = self._section(f"{kind}.{name}", values, own)
            if section.source is None:
                place = self._place(f"{kind}.{name}", "")
                raise UsageError(f'{place}: source is missing; write source = "s3://BUCKET"')
            found[name] = section
        return found

    def _section(self, title: str, values: object, own: frozenset[str]) -> Section:
        if not isinstance(values, dict):
            kind = title.partition(".")[0]
            raise UsageError(
                f"{self._place(kind, title.partition('.')[2])}: {title} is no section; "
                f"write [{kind}{'.NAME' if own else ''}] and the keys below it"
            )
        plain: dict[str, str] = {}
        options: dict[str, object] = {}
        credentials: dict[str, str] = {}
        known = OPTIONS.keys() | own | (CREDENTIALS.keys() if own else set())
        foreign = _is_foreign(values.get("source", values.get("url")))
        copies: tuple[CopiedSubtree, ...] = ()
        for key, value in values.items():
            if key == "subtree" and own is _OF_A_MOUNT:
                copies = read_subtrees(value, lambda key: self._place(f"{title}.subtree", key))
                continue
            place = self._place(title, key)
            text = _as_text(value, place, key)
            if key in own:
                plain["source" if key == "url" else key] = text
            elif key in OPTIONS:
                options[key] = read_option(key, text, place)
            elif own and (credential_of(key) or (foreign and not nearest(key, known, 0.8))):
                credentials[key] = text
            else:
                raise UsageError(f"{place}: unknown key {key!r}{nearest(key, known)}")
        return Section(
            title=f"{self._path} [{title}]",
            source=plain.get("source"),
            mountpoint=plain.get("mountpoint"),
            options=options,
            credentials=credentials,
            base=self._path.parent,
            copies=copies,
        )

    def _place(self, title: str, key: str) -> str:
        """`FILE:LINE [section]`; the line is found by spelling, so it may be missing."""
        section = f" [{title}]" if title else ""
        inside = not title
        found: object
        for number, line in enumerate(self._lines, 1):
            bare = re.sub(r"[\s\"']", "", line)
            if not bare.startswith("["):
                found = inside and key and re.match(rf"{re.escape(key)}[=.]", bare)
            elif title:
                inside = bare.lstrip("[").startswith(f"{title}]")
                found = inside and not key
            else:
                inside = False
                found = re.match(rf"\[+{re.escape(key)}\b", bare)
            if found:
                return f"{self._path}:{number}{section}"
        return f"{self._path}{section}"

    def _with_warnings(self, config: ConfigFile) -> ConfigFile:
        sections = [*config.remotes.values(), *config.mounts.values()]
        holds_secret = any(CREDENTIALS.get(key) for one in sections for key in one.credentials)
        if not holds_secret or not self._path.stat().st_mode & 0o077:
            return config
        warning = (
            f"{self._path} holds a secret and others may read it; type: chmod 600 {self._path}"
        )
        return replace(config, warnings=(warning,))


def _is_foreign(source: object) -> bool:
    """Whether fsspec serves it, under credential names that only its file system knows."""
    if not isinstance(source, str) or "://" not in source:
        return False
    return source.partition("://")[0].lower() not in OWN_SCHEMES


def _as_text(value: object, place: str, key: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"{place}: {key} takes a string, a number, true or false")
