"""The command line without a mount: what each mistake is told, and with which exit code."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mountd.cli import main
from mountd.cli.background import StartFailed, start_in_background
from mountd.cli.holders import describe_holders, find_holders
from mountd.cli.output import printable
from mountd.cli.ready import Outcome, ReadyPipe, wait_for_outcome
from mountd.cli.unexpected import report
from mountd.errors import ExitCode, StartError
from mountd.in_words import human_bytes
from mountd.mount_point import check_fuse, probe, user_allow_other
from mountd.mount_table import mount_at, mount_containing, parse_mountinfo
from tests.conftest import ExpectedLog

KEPT = ("PATH", "HOME", "LANG", "PYTHONPATH")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing of this machine's own configuration, and a place of its own for every file."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    return {
        **kept,
        "MOUNTD_RUNTIME_DIR": str(tmp_path / "run"),
        "MOUNTD_CACHE_DIR": str(tmp_path / "cache"),
        "MOUNTD_CONFIG": str(tmp_path / "config.toml"),
        "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
        "TMPDIR": str(tmp_path),
    }


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("")
    return path


def mountd(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mountd", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("moutn", 2, "unknown command 'moutn'; did you mean mount?"),
        ("cpy", 2, "unknown command 'cpy'; did you mean copy?"),
        ("copy", 2, "required: SOURCE"),
        ("copy x", 2, "DEST is missing"),
        ("copy file:// {tmp}/new", 2, "the directory is missing; write file:///dir"),
        ("copy {tmp} {tmp}/new --delete=forse", 2, "write --delete or --delete=force"),
        ("copy {tmp} {tmp}/new --jobs 0", 2, "--jobs: '0' is no number from 1 to 1024"),
        ("copy {tmp} {tmp}/new --jobs some", 2, "--jobs: 'some' is no number"),
        ("copy {tmp} manifest:new", 2, "write one with --manifest FILE"),
        ("warm {tmp}", 5, "is in no mount of mountd"),
        ("pin {tmp}", 5, "is in no mount of mountd"),
        ("unpin {tmp}", 5, "is in no mount of mountd"),
        ("mount", 2, "required"),
        ("mount s3://b", 2, "MOUNTPOINT is missing: mountd mount s3://b MOUNTPOINT"),
        ("mount data", 2, "defines no mount 'data'"),
        ("mount s4://b {tmp}/m", 2, "did you mean s3?"),
        ("mount lab:x {tmp}/m", 2, "no remote 'lab'"),
        ("mount lab:x {tmp}/m", 2, "write [remotes.lab]"),
        ("mount s3:/b/c {tmp}/m", 2, "SOURCE s3:/b/c: write s3://b/c"),
        ("mount file:///etc {tmp}/m -o uid=nosuchuser", 2, "uid takes a user of this machine"),
        ("login dropbox x", 2, "'dropbox' has no sign-in by browser"),
        ("mount rclone:lab:x {tmp}/m", 2, "no remote 'lab' in rclone.conf (there is none)"),
        ("mount rclone:lab {tmp}/m", 2, "write rclone:NAME:PATH"),
        ("mount file:///etc {tmp}/m -o cahce_size=1G", 2, "did you mean cache_size?"),
        ("mount file:///etc {tmp}/m -o umask=9", 2, "umask takes an octal mask"),
        ("mount file:///etc {tmp}/m -o password=s3cret", 2, "password_file=PATH"),
        ("mount webdav://a:s3cret@h/ {tmp}/m", 2, "MOUNTD_PASSWORD_FILE"),
        ("mount file:///etc {tmp}/m more", 2, "too many arguments: more"),
        ("mount s3://b {tmp}/m --read-only", 2, "--read-only; write -o read_only; see"),
        ("mount s3://b {tmp}/m --cache-size=1G", 2, "; write -o cache_size=1G; see"),
        ("mount s3://b {tmp}/m --read-only --uid=7", 2, "; write -o read_only,uid=7; see"),
        ("mount s3://b m --umask=2 --vfs-x", 2, "-o umask=2; options are written -o KEY=VALUE; "),
        ("mount s3://b m -o red_only,x1=y", 2, "did you mean read_only?; unknown option 'x1'"),
        ("mount s3://b {tmp}/m --vfs-x full", 2, "; options are written -o KEY=VALUE; see"),
        ("status --read-only", 2, "unrecognized arguments: --read-only; see"),
        ("mount file:///etc {tmp}/m --bogus", 2, "--bogus"),
        ("mount file:///etc {tmp}/m --config {tmp}/nope", 2, "nope: No such file"),
        ("mount file:///nope {tmp}/m", 2, "/nope does not exist"),
        ("mount file:///etc {tmp}/m", 5, "does not exist; type: mkdir -p"),
        ("mount file:///etc {tmp}/config.toml", 5, "is not a directory"),
        ("mount file:///etc {tmp}", 5, "is not empty"),
        ("mount file:///etc /proc", 5, "already a mount (proc"),
        ("mount file://{tmp} {tmp}/empty", 5, "lie in one another"),
        ("mount memory:// {tmp}/empty -o cache_dir={tmp}/empty/c", 5, "inside the mount point"),
        ("mount memory:// {tmp}/empty -o cache_dir=/proc/c", 1, "cache_dir=DIR"),
        ("status {tmp}/empty", 5, "is no mount point"),
        ("status /proc", 5, "not of mountd"),
        ("umount {tmp}/empty", 5, "is no mount point"),
        ("umount {tmp}/nope", 5, "is no mount point"),
        ("umount {tmp}/empty --timeout soon", 2, "--timeout"),
        ("refresh {tmp}", 5, "is in no mount of mountd"),
        ("flush {tmp}", 5, "is in no mount of mountd"),
        ("flush {tmp} --timeout -1", 2, "--timeout"),
        ("queue", 2, "required"),
        ("queue {tmp}/empty", 5, "is no mount point"),
        ("queue {tmp}/empty --retry", 5, "is no mount point"),
        ("queue {tmp}/empty --retry --discard f", 2, "not allowed with"),
        ("remotes --config {tmp}/nope", 2, "cannot read the config file"),
        ("doctor --bogus", 2, "--bogus"),
    ],
)
def test_every_mistake_gets_one_line_and_its_exit_code(
    environment: dict[str, str], tmp_path: Path, arguments: str, code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = mountd(environment, *arguments.format(tmp=tmp_path).split())
    assert words in done.stderr
    assert done.returncode == code
    assert done.stderr.startswith("mountd: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert "s3cret" not in done.stderr


def test_a_typo_in_the_config_names_file_line_and_key(
    environment: dict[str, str], config: Path
) -> None:
    config.write_text('[remotes.lab]\nurl = "s3://b"\nregin = "x"\n')
    done = mountd(environment, "remotes")
    assert done.returncode == 2
    line = f"mountd: {config}:3 [remotes.lab]: unknown key 'regin'; did you mean region?\n"
    assert done.stderr == line


def cpu_s(environment: Mapping[str, str], code: str) -> float:
    """CPU seconds of a Python process: wall time says more about what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


COMMANDS = [
    *("mount", "umount", "status", "flush", "queue", "refresh", "copy", "manifest"),
    *("warm", "pin", "unpin", "login", "remotes", "sidecar", "upgrade", "tune", "doctor"),
]
HELP = "from mountd.cli import main; main(['--help'])"


def test_help_lists_exactly_what_there_is(environment: dict[str, str]) -> None:
    done = mountd(environment, "--help")
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert names == COMMANDS


def test_help_takes_less_than_150_ms_and_loads_no_command(environment: dict[str, str]) -> None:
    cpu_s(environment, HELP)  # compiles the byte code once
    assert min(cpu_s(environment, HELP) for _ in range(3)) < 0.15
    listing = f"{HELP}; import sys; print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", listing],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "mountd.cli" in loaded
    assert not loaded & {"trio", "rich", "pyfuse3", "argparse", "tomllib", "mountd.cli.mount"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: mountd {command}" in capsys.readouterr().out
    assert "SUPPRESS" not in capsys.readouterr().out


def test_status_is_a_list_that_may_be_empty(environment: dict[str, str]) -> None:
    done = mountd(environment, "status", "--json")
    # Other tests may have mounts on this machine: whatever is listed has a state.
    assert all(one["state"] for one in json.loads(done.stdout))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_enough_is_no_error(environment: dict[str, str]) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    command = [sys.executable, "-m", "mountd", "--help"]
    child = subprocess.run(
        command, env=environment, stdout=write_fd, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(write_fd)
    assert (child.returncode, child.stderr) == (0, b"")


def test_remotes_lists_and_checks_what_the_config_defines(
    environment: dict[str, str], config: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("x")
    config.write_text(
        f'[remotes.local]\nsource = "file://{tmp_path}/data"\n'
        f'[remotes.gone]\nsource = "file://{tmp_path}/gone"\n'
        '[mounts.data]\nsource = "local:"\nmountpoint = "/storage"\n'
    )
    done = mountd(environment, "remotes")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["NAME", "KIND", "SOURCE", "MOUNTPOINT"]
    assert rows[3] == ["data", "mount", "local:", "/storage"]
    assert done.returncode == 0


def test_remotes_without_a_config_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    del environment["MOUNTD_CONFIG"]
    if Path("/etc/mountd/config.toml").exists():
        pytest.skip("this machine has a config file")
    environment["XDG_CONFIG_HOME"] = str(tmp_path / "none")
    done = mountd(environment, "remotes")
    assert (done.returncode, done.stdout) == (0, "")
    assert "there is no config file" in done.stderr


def test_an_exception_that_nobody_expected_is_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    script = (
        "import sys, mountd.cli, mountd.mount_table\n"
        "def broken(): raise ZeroDivisionError('a defect')\n"
        "mountd.mount_table.read_mounts = broken\n"
        "sys.exit(mountd.cli.main(['status', '/nowhere']))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mountd: unexpected ZeroDivisionError: a defect; ")
    assert done.stderr.count("\n") == 1
    (report,) = tmp_path.glob("mountd-error-*.txt")
    assert "in broken" in report.read_text()
    loud = environment | {"MOUNTD_LOG_LEVEL": "debug"}
    done = subprocess.run(
        command, env=loud, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" in done.stderr


# -- starting in the background


READY = "import os, sys; os.write(int(sys.argv[-1]), b'{\"ready\": true}\\n')"


def run_child(tmp_path: Path, script: str, timeout_s: float = 30) -> int:
    return start_in_background([sys.executable, "-c", script], tmp_path, timeout_s)


def test_the_starter_returns_when_the_child_is_ready_and_leaves_it_running(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    more = f"; open({str(fifo)!r}, 'w').write(f'{{os.getppid()}} {{os.getsid(0)}}')"
    assert run_child(tmp_path, READY + more) == 0
    keeper, session = fifo.read_text().split()  # it could write only after we had returned
    assert keeper == session


def test_the_childs_own_line_and_code_come_through(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        'os.write(int(sys.argv[-1]), b\'{"error": "no such bucket", "exit_code": 4}\\n\')\n'
        "sys.exit(4)"
    )
    with pytest.raises(StartFailed, match=r"^no such bucket$") as caught:
        run_child(tmp_path, script)
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_a_child_that_dies_without_a_word_is_reported_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"exit code 7: the last line; the logs are in") as caught:
        run_child(tmp_path, "import sys; print('the last line', file=sys.stderr); sys.exit(7)")
    assert str(tmp_path) in str(caught.value)
    log = tmp_path / "mountd.log"
    with pytest.raises(StartError) as caught:
        run_child(tmp_path, f"import sys; sys.exit('a defect; the log is {log}')")
    assert str(caught.value).count(str(tmp_path)) == 1
    with pytest.raises(StartError, match="signal 9"):
        run_child(tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_child_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    script = "import os, sys, time; open('PID', 'w').write(str(os.getpid())); time.sleep(60)"
    script = script.replace("PID", str(tmp_path / "pid"))
    for timeout_s in (1, 10, 60):
        with pytest.raises(StartError, match=rf"not usable within {timeout_s} s; the log is"):
            run_child(tmp_path, script, timeout_s=timeout_s)
        if (tmp_path / "pid").exists():
            break  # else it was ended before it had begun
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_output_file_is_rotated(tmp_path: Path) -> None:
    log_dir = tmp_path / "log"
    log_dir.mkdir()
    for number in range(6):
        with (log_dir / "output.log").open("wb") as file:
            file.write(b"%d" % number)
            file.truncate(11 << 20)
        run_child(log_dir, READY)
    names = ["output.log", "output.log.1", "output.log.2", "output.log.3"]
    assert sorted(os.listdir(log_dir)) == names
    firsts = [(log_dir / name).read_bytes()[:1] for name in names]
    assert firsts == [b"", b"5", b"4", b"3"]


def test_only_the_first_message_through_the_pipe_counts() -> None:
    read_fd, write_fd = os.pipe()
    pipe = ReadyPipe(write_fd)
    pipe.tell()
    pipe.failed("too late", ExitCode.RUNTIME)
    pipe.close()
    assert wait_for_outcome(read_fd, 5) == Outcome(None)
    os.close(read_fd)


# -- who holds a mount


def test_an_exception_in_groups_of_one_is_told_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("unexpected KeyError")  # pytest's own file of logs takes it
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("x")])])
    assert report(group, []).startswith("unexpected KeyError: 'x'; ")


def test_holders_are_found_by_directory_open_file_and_mapping(tmp_path: Path) -> None:
    (tmp_path / "busy dir").mkdir()
    (tmp_path / "busy dir/file").write_text("x" * 5000)
    scripts = {
        "cwd": "import os; os.chdir('D')",
        "fd": "f = open('D/file')",
        "map": "import mmap\nwith open('D/file', 'r+b') as f: m = mmap.mmap(f.fileno(), 0)",
    }
    children = {}
    try:
        for kind, script in scripts.items():
            code = (
                script.replace("D", str(tmp_path / "busy dir")) + "\nprint(1, flush=True)\ninput()"
            )
            children[kind] = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        for child in children.values():
            assert child.stdout is not None
            child.stdout.readline()
        found = {holder.pid: holder for holder in find_holders(str(tmp_path / "busy dir"))}
        assert set(found) == {child.pid for child in children.values()}
        directory = str(tmp_path / "busy dir")
        assert found[children["cwd"].pid].path == directory
        assert found[children["fd"].pid].path == f"{directory}/file"
        assert found[children["map"].pid].path == f"{directory}/file"
        assert "python" in found[children["fd"].pid].command
        assert f"pid {children['fd'].pid} (" in describe_holders(directory)
        assert len(find_holders(directory, limit=2)) == 2
        assert find_holders(str(tmp_path / "busy")) == []
    finally:
        for child in children.values():
            child.communicate(b"\n", timeout=10)


def test_a_mount_that_nobody_visible_holds_says_so(tmp_path: Path) -> None:
    assert find_holders(str(tmp_path)) == []
    assert "namespace" in describe_holders(str(tmp_path)) or os.geteuid() != 0


# -- mount points


MOUNTINFO = rb"""22 27 0:21 / /sys rw,nosuid - sysfs sysfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
90 27 0:50 / /storage rw,nosuid - fuse.mountd s3://lab/my\040data ro,user_id=1000,group_id=0
91 27 0:51 / /storage/in\040ner\134x ro master:2 propagate_from:1 - tmpfs tmpfs rw
92 27 0:52 / /storage rw - fuse.mountd gs://over ro,user_id=0
nonsense
"""


def test_mountinfo_is_read_with_its_escapes_and_optional_fields() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert [mount.path for mount in mounts] == [
        "/sys",
        "/",
        "/storage",
        "/storage/in ner\\x",
        "/storage",
    ]
    assert mounts[2].source == "s3://lab/my data"
    assert (mounts[2].device, mounts[2].owner_uid, mounts[2].is_ours) == ("0:50", 1000, True)
    assert (mounts[3].fs_type, mounts[3].owner_uid, mounts[3].is_ours) == ("tmpfs", None, False)


def test_the_topmost_and_the_innermost_mount_win() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert mount_at("/storage", mounts) is mounts[4]
    assert mount_at("/storage/a", mounts) is None
    assert mount_containing("/storage/a", mounts) is mounts[4]
    assert mount_containing("/storage/in ner\\x/y", mounts) is mounts[3]
    assert mount_containing("/storages", mounts) is mounts[1]


def test_a_probe_sees_what_is_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    found = probe(tmp_path / "link")
    assert (found.real, found.kind, found.error) == (str(tmp_path), "directory", 0)
    assert not found.empty
    assert probe(tmp_path / "nope").error == 2


def test_a_path_does_not_hang_because_a_busy_machine_starts_nothing_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late-python"
    late.write_text(f'#!/bin/sh\nsleep 2.5\nexec {sys.executable} "$@"\n')
    late.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(late))
    assert probe(tmp_path, timeout_s=2.0).error == 0


def test_a_fuse_device_that_may_not_be_opened_or_is_missing_gets_its_own_fix(
    tmp_path: Path,
) -> None:
    with pytest.raises(StartError, match="modprobe fuse"):
        check_fuse(False, tmp_path / "missing")
    closed = tmp_path / "fuse"
    closed.touch(mode=0o000)
    uid = os.geteuid()
    try:
        if uid == 0:
            os.seteuid(65534)
        with pytest.raises(StartError, match=r"chmod 666 /dev/fuse, or .*group") as caught:
            check_fuse(False, closed)
    finally:
        os.seteuid(uid)
    assert "modprobe" not in str(caught.value)


def test_user_allow_other_counts_only_on_a_line_of_its_own() -> None:
    assert user_allow_other("mount_max = 3\n user_allow_other \n")
    assert not user_allow_other("#user_allow_other\n")
    assert not user_allow_other("user_allow_others\n")


def test_sizes_and_odd_names_are_shown_so_that_a_terminal_bears_them() -> None:
    assert [human_bytes(size) for size in (None, 0, 1023, 1024, 1536, 5 << 40)] == [
        "-",
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 TiB",
    ]
    assert printable("a\x1b[31m\udcffé") == "a\\x1b[31m\\udcffé"
