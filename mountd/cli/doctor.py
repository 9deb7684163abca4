"""`mountd doctor [SOURCE]`: what is wrong here, and what to do about it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mountd.cli.arguments import Parser
from mountd.cli.doctor_machine import check_machine
from mountd.cli.doctor_mounts import check_mounts
from mountd.cli.findings import Finding, ok, problem, warning
from mountd.cli.output import print_table
from mountd.config.file import ConfigFile, find_config, load_config
from mountd.config.load import configured_cache_dir, default_cache_dir, read_command_line
from mountd.errors import ExitCode, UsageError


def run(arguments: Sequence[str]) -> int:
    """0 without a problem, else 1; for SOURCE what a mount of it would end with (2, 3, 4)."""
    parser = Parser("doctor", "Checks this machine, and SOURCE if one is given.")
    parser.add_argument("source", metavar="SOURCE", nargs="?")
    parser.add_argument("--json", action="store_true", help="a list with an object per check")
    parser.add_config()
    parser.add_options()
    parsed = parser.read(arguments)
    config, findings = _check_config(parsed.config)
    cache_dir = _cache_dir(config, parsed.options)
    findings = [*check_machine(cache_dir), *findings, *check_mounts(cache_dir)]
    code = ExitCode.OK
    if parsed.source:
        from mountd.cli.doctor_source import check_source

        of_source, code = check_source(parsed.source, config, parsed.options)
        findings += of_source
    if parsed.json:
        print(json.dumps([one.as_dict() for one in findings], indent=2))
    else:
        _print(findings)
    has_problem = any(one.state == "problem" for one in findings)
    return code or (ExitCode.RUNTIME if has_problem else ExitCode.OK)


def _check_config(named: str | None) -> tuple[ConfigFile, list[Finding]]:
    try:
        config = load_config(find_config(named, os.environ))
    except UsageError as error:
        return ConfigFile(), [problem("config file", str(error), "mend that line")]
    if config.path is None:
        return config, [ok("config file", "none; everything comes from -o and the environment")]
    found = f"{config.path}: {len(config.remotes)} remotes, {len(config.mounts)} mounts"
    secrets = [warning("config file", one, f"chmod 600 {config.path}") for one in config.warnings]
    return config, secrets or [ok("config file", found)]


def _cache_dir(config: ConfigFile, options: Sequence[str]) -> Path:
    try:
        given = read_command_line(options).options.get("cache_dir")
        return given if isinstance(given, Path) else configured_cache_dir(config)
    except UsageError:
        return default_cache_dir()


def _print(findings: Sequence[Finding]) -> None:
    print_table(
        ("CHECK", "STATE", "FOUND"), [(one.check, one.state, one.found) for one in findings]
    )
    open_ones = [one for one in findings if one.state != "ok"]
    if not open_ones:
        print("all is well")
        return
    print("\nWhat to do:")
    for one in open_ones:
        print(f"  {one.check}: {one.fix}")
