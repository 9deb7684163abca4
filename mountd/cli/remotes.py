"""`mountd remotes`: what config file and rclone.conf define; with --check whether it answers."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mountd.cli.arguments import Parser, load_config
from mountd.cli.bounded import Bounded
from mountd.cli.output import print_table, warn
from mountd.config import Reach, Settings
from mountd.config.credentials import CREDENTIALS, FILE_SUFFIX, env_name
from mountd.config.file import ConfigFile, Section
from mountd.config.load import CommandLine, reach_of, resolve_source
from mountd.config.rclone_conf import read_rclone
from mountd.config.rclone_source import resolve_rclone
from mountd.config.source import Source, without_secrets
from mountd.errors import (
    ContainerMissing,
    CredentialsError,
    ExitCode,
    NotFound,
    RemoteError,
    StartError,
    UsageError,
)

CHECK_TIMEOUT_S = 20.0
_REQUEST_TIMEOUT_S = 15.0
_NO_COMMAND_LINE = CommandLine({}, {})


@dataclass(frozen=True, slots=True)
class Check:
    """What a remote answered. `state` is ok, denied, unreachable, missing or failed."""

    state: str
    reason: str
    exit_code: ExitCode
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Listed:
    """A row of the table. `text` is its SOURCE, "" where mountd can't mount it: then `reason`."""

    row: tuple[str, ...]
    text: str
    mount: Section | None = None
    reason: str = ""


def run(arguments: Sequence[str]) -> int:
    """0; with --check 3 where a remote denied, else 4 where one was out of reach, else 1 or 2."""
    parser = Parser("remotes", "The remotes and mounts of the config file, and rclone's remotes.")
    parser.add_config()
    parser.add_argument("--check", action="store_true", help="list the first page of each")
    parsed = parser.read(arguments)
    config = load_config(parsed.config)
    listed = [*_of_config(config), *_of_rclone()]
    if not listed:
        if config.path is None:
            warn("there is no config file; docs/config.md says what goes into it")
        else:
            print(f"{config.path} defines no remotes and no mounts")
        return ExitCode.OK
    if not parsed.check:
        print_table(("NAME", "KIND", "SOURCE", "MOUNTPOINT"), [one.row for one in listed])
        return ExitCode.OK
    checks = check_all(listed, config)
    print_table(
        ("NAME", "KIND", "SOURCE", "MOUNTPOINT", "CHECK", "REASON"),
        [(*one.row, check.state, check.reason) for one, check in zip(listed, checks, strict=True)],
    )
    codes = [one.exit_code for one in checks]
    order = (ExitCode.CREDENTIALS, ExitCode.UNREACHABLE, ExitCode.RUNTIME, ExitCode.USAGE)
    return next((code for code in order if code in codes), ExitCode.OK)


def check_all(listed: Sequence[_Listed], config: ConfigFile) -> list[Check]:
    """All at once. What mountd can't mount is no failure."""
    one_only = sum(bool(one.text) for one in listed) == 1
    environ = dict(os.environ) if one_only else _without_credentials(os.environ)
    calls = [
        Bounded(partial(_check_target, one.text, one.mount, config, environ)) if one.text else None
        for one in listed
    ]
    deadline = time.monotonic() + CHECK_TIMEOUT_S
    return [
        _outcome(partial(_result, call, deadline)) if call else Check("-", one.reason, ExitCode.OK)
        for one, call in zip(listed, calls, strict=True)
    ]


def _of_config(config: ConfigFile) -> Iterator[_Listed]:
    for name, one in config.remotes.items():
        yield _Listed(_row(name, "remote", one), f"{name}:")
    for name, one in config.mounts.items():
        yield _Listed(_row(name, "mount", one), one.source or "", one)


def _of_rclone() -> Iterator[_Listed]:
    """A file that can't be read is said, and the others are listed."""
    try:
        config = read_rclone()
    except UsageError as error:
        warn(str(error))
        return
    for name in config.names():
        text = f"rclone:{name}:"
        try:
            # Anywhere on the local disk is a mount of its own.
            is_local = config.remote(name).type == "local"
            source, _ = resolve_rclone(f"{text}/" if is_local else text, config=config)
        except UsageError as error:
            yield _Listed((text, "rclone", "-", "-"), "", reason=str(error))
        else:
            yield _Listed((text, "rclone", _url(source), "-"), source.text)


def _url(source: Source) -> str:
    path = f"/{source.prefix}" if source.prefix or source.scheme == "file" else ""
    return f"{source.scheme}://{source.authority}{path}"


def _result(call: Bounded[Check], deadline: float) -> Check:
    return call.result(max(0.0, deadline - time.monotonic()))


def check_store(source: Source, settings: Settings) -> Check:
    """Opens the store and lists its first page; ends within about `request_timeout_s`."""
    return _outcome(partial(_list_first_page, source, settings))


def _check_target(
    text: str, mount: Section | None, config: ConfigFile, environ: Mapping[str, str]
) -> Check:
    source, settings = resolve_source(text, config, _NO_COMMAND_LINE, environ, mount)
    shorter = replace(
        settings, request_timeout_s=min(settings.request_timeout_s, _REQUEST_TIMEOUT_S)
    )
    reach = reach_of(source, config, _NO_COMMAND_LINE, environ)
    return _list_first_page(source, shorter, reach)


def _list_first_page(source: Source, settings: Settings, reach: Reach | None = None) -> Check:
    from mountd.remotes.registry import open_store

    store = open_store(source, settings, reach=reach)
    try:
        start = time.monotonic()
        try:
            page = next(iter(store.list("")), ())
        except NotFound:
            page = ()  # a missing prefix is an empty directory
        took_s = time.monotonic() - start
    finally:
        store.close()
    entries = "1 entry" if len(page) == 1 else f"{len(page)} entries"
    more = f"{entries} in {took_s * 1000:.0f} ms"
    return Check("ok", more, ExitCode.OK, took_s)


def _outcome(call: Callable[[], Check]) -> Check:
    from mountd.cli import exit_code_of

    try:
        return call()
    except TimeoutError as error:
        return Check("unreachable", str(error), ExitCode.UNREACHABLE)
    except RemoteError as error:
        code = exit_code_of(error)
        if isinstance(error, ContainerMissing):
            return Check("missing", _line(error), code)
        state = {ExitCode.CREDENTIALS: "denied", ExitCode.UNREACHABLE: "unreachable"}
        return Check(state.get(code, "failed"), _line(error), code)
    except CredentialsError as error:
        return Check("denied", _line(error), error.exit_code)
    except StartError as error:
        return Check("failed", _line(error), error.exit_code)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _row(name: str, kind: str, section: Section) -> tuple[str, ...]:
    return (name, kind, without_secrets(section.source or ""), section.mountpoint or "-")


def _without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """MOUNTD_PASSWORD is meant for one remote: it is not to be sent to all of them."""
    names = {env_name(name) for name in CREDENTIALS}
    names |= {name + FILE_SUFFIX.upper() for name in names}
    return {name: value for name, value in environ.items() if name not in names}
