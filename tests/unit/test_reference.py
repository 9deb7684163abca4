"""docs/config-reference.md and docs/commands.md are made from the code, and are what it says."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from mountd.cli.option_words import default_of, options_in_words
from mountd.config import Settings
from mountd.config.options import OPTIONS

ROOT = Path(__file__).parents[2]
NO_OPTIONS = {"widest_transfers", "credentials"}


def test_the_reference_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_reference.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_is_an_option_with_a_meaning_and_a_default() -> None:
    assert {field.name for field in fields(Settings)} - NO_OPTIONS == set(OPTIONS)
    for name, option in OPTIONS.items():
        assert option.meaning, name
        assert default_of(name), name


def test_a_default_that_can_be_typed_is_read_as_that_default() -> None:
    in_words = ("cache_dir", "cache_size", "uid", "gid", "endpoint", "region", "ca_file", "metrics")
    of_two = ("metadata_ttl_s", "max_transfers", "bandwidth_up", "bandwidth_down")
    for field in fields(Settings):
        if field.name in NO_OPTIONS or field.name in in_words + of_two:
            continue
        typed = default_of(field.name)
        assert OPTIONS[field.name].read(typed) == field.default, field.name


def test_help_names_every_option() -> None:
    said = options_in_words()
    assert [name for name in OPTIONS if f"  {name}: " not in said] == []
