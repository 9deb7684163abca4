"""mountd for Python programs: what holds without a mount."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mountd
from mountd.api.command import run_command
from mountd.api.copying import copy
from mountd.api.options import Options, words_and_secrets
from mountd.config.credentials import CREDENTIALS
from mountd.config.options import OPTIONS


def test_importing_mountd_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import mountd; print(set(sys.modules) - before)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    said = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=environment
    )
    assert said.stdout == "{'mountd'}\n", said.stderr


def test_every_name_that_mountd_has_for_programs_is_there() -> None:
    assert all(getattr(mountd, name) is not None for name in mountd.__all__)
    assert set(mountd.__all__) <= set(dir(mountd))
    assert (Path(mountd.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'mounted'"):
        getattr(mountd, "mounted")  # noqa: B009


def test_every_option_and_credential_of_the_command_line_is_a_keyword() -> None:
    files = {f"{name}_file" for name, is_secret in CREDENTIALS.items() if is_secret}
    assert set(Options.__annotations__) == {*OPTIONS, *CREDENTIALS, *files}


def test_secrets_go_to_the_environment_and_all_else_to_the_command_line() -> None:
    words, secrets = words_and_secrets(
        {
            "cache_dir": Path("/a,b"),
            "read_only": True,
            "umask": 0o027,
            "cache_size": 1 << 30,
            "region": None,
            "access_key_id": "AKID",
            "secret_access_key": "s3cret",
            "password_file": "/p",
        },
        Path("/c.toml"),
    )
    assert secrets == {"MOUNTD_SECRET_ACCESS_KEY": "s3cret"}
    assert words[:2] == ["--config", "/c.toml"]
    assert words[3::2] == [
        "cache_dir=/a\\,b",
        "read_only=true",
        "umask=027",
        "cache_size=1073741824",
        "access_key_id=AKID",
        "password_file=/p",
    ]


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(mountd.UsageError, match=r"unknown option 'cache_sise'.*cache_size"):
        words_and_secrets({"cache_sise": "1GiB"}, None)
    with pytest.raises(mountd.UsageError, match="endpoint can't be a list"):
        words_and_secrets({"endpoint": ["http://a"]}, None)


def test_the_words_of_a_wrong_call_are_those_of_the_command() -> None:
    with pytest.raises(mountd.UsageError, match="unknown command 'mont'"):
        run_command(["mont"])


def test_one_glob_is_not_taken_for_its_letters() -> None:
    with pytest.raises(TypeError, match="lists of globs"):
        copy("/a", "/b", include="*.jpg")


def test_a_local_copy_says_what_it_did_and_how_far_it_is(tmp_path: Path) -> None:
    source, dest = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(3):
        (source / f"{number}").write_bytes(b"12345")
    seen: list[mountd.CopyProgress] = []
    planned = mountd.copy(source, dest, dry_run=True, cache_dir=tmp_path / "cache")
    assert (sorted(planned.paths), planned.files) == (["0", "1", "2"], 0)
    done = mountd.copy(source, dest, progress=seen.append, cache_dir=tmp_path / "cache")
    assert (done.files, done.bytes, done.unchanged, done.dest) == (3, 15, 0, str(dest))
    assert seen[-1].total_files == 3
    again = mountd.copy(source, dest, cache_dir=tmp_path / "cache")
    assert (again.files, again.unchanged) == (0, 3)


def test_what_the_callback_raises_ends_the_copy_and_comes_out(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "f").write_bytes(b"1")

    def fails(now: mountd.CopyProgress) -> None:
        raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        mountd.copy(source, tmp_path / "out", progress=fails, cache_dir=tmp_path / "cache")


def test_a_copy_that_cant_begin_says_so_in_the_commands_line(tmp_path: Path) -> None:
    with pytest.raises(mountd.MountdError, match="there is nothing at"):
        mountd.copy(tmp_path / "gone", tmp_path / "out", cache_dir=tmp_path / "cache")
    with pytest.raises(mountd.MountPointError, match="is in no mount of mountd"):
        mountd.warm(tmp_path)


def test_a_forked_child_that_leaves_the_block_does_not_unmount(tmp_path: Path) -> None:
    program = """
import os, sys, mountd
data = mountd.Mount("s3://b", sys.argv[1])
pid = os.fork()
try:
    data.__exit__(None, None, None)
except mountd.MountPointError:
    os._exit(7)
os._exit(0 if pid == 0 else 1)
"""
    fork = program.replace("os._exit(7)", "os._exit(os.waitstatus_to_exitcode(os.wait()[1]) or 7)")
    done = subprocess.run([sys.executable, "-c", fork, str(tmp_path)], check=False, timeout=30)
    assert done.returncode == 7
