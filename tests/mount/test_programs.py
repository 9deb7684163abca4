"""What people run: commands say and leave on the mount what they do in a local directory."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import file_keys
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

ENVIRONMENT = os.environ | {
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    **{f"GIT_{who}_NAME": "A" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_DATE": "2026-01-31T10:00:00Z" for who in ("AUTHOR", "COMMITTER")},
}

# One line is one shell; `S` is a directory with seq.txt, random (300 KB), a tree and its tar.
COMMANDS = """
cp $S/random a && dd if=$S/seq.txt of=a bs=1000 seek=150 conv=notrunc status=none && cksum a
cp $S/random tr; truncate -s 1000 tr; truncate -s 500000 tr; truncate -s +7 tr; cksum tr
truncate -s 2M sp && cp --sparse=always sp sp1; cp --sparse=never sp sp2; cksum sp sp1 sp2
cp --reflink=auto $S/random rl; cksum rl
cp -a $S/tree T; mkdir -p mm/dst; mv T mm/dst/; mv mm/dst/T/f1 mm/; mv mm/f1 .; find mm f1 | sort
cp -a $S/tree $PWD.out; mv $PWD.out moved; mv moved $PWD.out; ls $PWD.out; mv $PWD.out moved
install -m 755 $S/seq.txt ins; install -d -m 700 d; install -D $S/random d/x/y; stat -c %a ins d
cp $S/seq.txt sed; sed -i s/1/X/g sed; sed -i.bak s/2/Y/ sed; cksum sed sed.bak
cp $S/seq.txt so; sort -r -o so so; cksum so
touch -d '2001-02-03 04:05:06.789 UTC' td; touch -r td te; stat -c %.9Y td te
cp -r $S/tree ch; chmod -R u=rwX,go= ch; chmod a-w ch/f2; find ch -printf '%m %p\\n' | sort
cp -r $S/tree fd; find fd -name 'f*' -delete; find fd | sort; find fd -delete; ls fd 2>&1 | wc -l
rsync -a --inplace $S/tree/ rs/; touch rs/more; mkdir rs/sub2; rsync -a --delete $S/tree/ rs/; ls rs
cp $S/random r; dd if=/dev/zero of=r bs=1 seek=9 count=9 conv=notrunc status=none; cksum r; \
    rsync --inplace --no-whole-file --checksum $S/random r; cmp r $S/random
tar xf $S/tree.tar; echo new > tree/f1; tar xf $S/tree.tar; cat tree/f1; tar df $S/tree.tar
split -b 50K $S/random part_; cat part_* | cmp - $S/random; ls part_*
cp $S/seq.txt gz; gzip -n gz; gunzip gz.gz; cmp gz $S/seq.txt; ls gz*
n=$(printf 'n%.0s' $(seq 255)); echo x > $n; mv $n m${n#n}; mkdir $n; echo y > $n/$n; cat m*n $n/$n
p=$(printf 'd/%.0s' $(seq 50)); mkdir -p deep/$p; echo x > deep/${p}f; mv deep d2; cat d2/${p}f; \
    cp -r d2 d3; rm -rf d3/d/d/d; find d3; rmdir -p d3/d/d; ls -d d3 2>&1 | wc -l
umask 077; echo s > private; mkdir privated; stat -c %a private privated; chmod 000 privated
exec 5>held; echo one >&5; rm held; echo two >&5; exec 5>&-; ls held 2>&1 | wc -l
for i in $(seq 100); do echo $i >> appended; echo $i > again; done; cksum appended; cat again
mkdir pk; echo 'x = 1' > pk/m.py; cd pk; $PY -c 'import m; print(m.x)'; echo 'x = 22' > m.py; \
    $PY -c 'import m; print(m.x)'; ls
ln -s d1 l; mkdir d1 d2; ln -s /etc/nowhere abs; cat abs; echo x > l/f; ln -sf d2 l; ls d1; \
    ln -sfn d2 l; stat -c '%F %a %s %N' l abs; mv l m; ls m/; rm -r m; ln -s f d2
echo t > t; ln -s t l; echo u > u; mv l u; cat u; cp t v; mv v u; readlink u; ln -s t u; \
    ln -sf t u; (set -C; echo 1 > nowhere; ln -s no dangling; echo 2 > dangling; cat no); \
    mkdir u; rmdir u; ls
touch -h -d '2001-02-03 04:05:06 UTC' none; ln -s none l; touch -h -d '2001-02-03 UTC' l; \
    stat -c '%Y %F' l; chown -h $(id -u) l; unlink l; ls -a
cp -a $S/linked L; mv L M; tar cf t.tar M; mkdir T R; tar xf t.tar -C T; rsync -a M/ R/; \
    rm t.tar; cp -r M D; cp -rL M/sub F 2>&1 | sort; \
    find . -type l -printf '%p %l %TY\\n' | sort; find -L . -type l 2>&1 | sort; \
    rsync -a --delete $S/linked/sub/ R/; ls -R R; rm -r D/sub; \
    readlink -f D/dangling
git init -q -b main g; cd g; ln -s f l; echo f > f; mkdir d; ln -s ../f d/up; git add .; \
    git commit -qm one; git clone -q --no-hardlinks . ../h; rm -r ../h/.git/logs; \
    readlink ../h/l ../h/d/up; ln -sf other l; git status -s; git commit -qam two; \
    git switch -qd HEAD~; readlink l; rm l; echo file > l; git add l; git commit -qm file; \
    git switch -q main; readlink l; git fsck --strict
set -C; echo 1 > excl; echo 2 > excl; cat excl
flock lk -c 'echo locked'
mkdir full; (cd full; seq 300 | xargs touch; ls | wc -l; rm *; ls -A); rmdir full
$PY $S/saves.py; cat code notebook atomic backup backup~ replaced; ls -A | wc -l
git init -q -b main g; cd g; for i in $(seq 20); do echo $i > f$i; done; git add .; \
    git commit -qm one; git switch -qc other; echo x >> f1; git commit -qam x; git switch -q main; \
    echo y >> f2; git commit -qam y; git rebase -q main other; echo z >> f3; git stash -q; \
    git stash pop -q; git status -s; git worktree add -q ../wt main; ls ../wt | wc -l; \
    git worktree remove ../wt; git gc -q; git fsck --strict; git rev-parse HEAD
"""

# How editors and frameworks save: in place, aside and renamed, with a backup, by seeks, by mmap.
SAVES = """
import mmap, os, shutil, tempfile, zipfile
def put(path, data):
    with open(path, "wb") as file:
        file.write(data)
for i in range(3):
    put("code", b"in place %d\\n" % i * 100)
    fd = os.open("code", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"v%d\\n" % i); os.fsync(fd); os.close(fd)
    if i: shutil.copy2("notebook", ".~notebook")
    put("notebook", b"cell\\n" * (5 - i))
    if i: os.remove(".~notebook")
    fd, new = tempfile.mkstemp(dir=".")
    os.write(fd, b"new %d\\n" % i); os.fchmod(fd, 0o644); os.fsync(fd); os.close(fd)
    os.replace(new, "atomic")
    if i: os.replace("backup", "backup~")
    put("backup", b"b%d\\n" % i)
    put("replaced", b"x" * 1000); os.unlink("replaced"); put("replaced", b"r%d\\n" % i)
with zipfile.ZipFile("weights", "w") as archive:
    for i in range(5):
        name = zipfile.ZipInfo(f"data/{i}", (2020, 1, 1, 0, 0, 0))
        with archive.open(name, "w") as part:
            for _ in range(5): part.write(bytes([i]) * 50_000)
assert zipfile.ZipFile("weights").testzip() is None
put("array", bytes(400_000))
with open("array", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    mapped[200_000:200_004] = b"seen"
    mapped.flush()
assert open("array", "rb").read()[200_000:200_005] == b"seen\\0"
"""


ODD = {"dangling": "nowhere/at all", "absolute": "/etc/hostname", "ünï\ncode": "\t ü\n"}


@dataclass(frozen=True)
class Lab:
    """An empty bucket, mounted, and a local directory to compare with."""

    mount: Mounted
    server: S3Server
    folder: Path

    def remote(self) -> dict[str, bytes]:
        """What is on the remote once everything was sent."""
        self.mount.cli("flush", str(self.mount.path), "--timeout", "25")
        return {key: self.server.read("b", key) for key in file_keys(self.server)}


@pytest.fixture
def lab(s3_server: S3Server, tmp_path: Path) -> Iterator[Lab]:
    s3_server.make_bucket("b")
    with mounted("s3://b", tmp_path, environment=s3_server.environment()) as mount:
        yield Lab(mount, s3_server, tmp_path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    (root / "seq.txt").write_text("".join(f"{i}\n" for i in range(5000)))
    (root / "random").write_bytes(os.urandom(300_000))
    (root / "saves.py").write_text(SAVES)
    for name in ("f1", "f2", "f3", "sub/g1", "sub/g2"):
        path = root / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "linked/sub").mkdir(parents=True)
    (root / "linked/sub/file").write_text("file")
    for name, target in {"to-file": "sub/file", "to-dir": "sub", "sub/up": "..", **ODD}.items():
        (root / "linked" / name).symlink_to(target)
    subprocess.run(["tar", "-C", root, "-cf", root / "tree.tar", "tree"], check=True)
    return root


def said(command: str, directory: Path, sources: Path) -> tuple[int, str]:
    """The exit code and all output of a shell there, with the place left out of it."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=ENVIRONMENT | {"S": str(sources), "PY": sys.executable},
    )
    return done.returncode, done.stdout.replace(str(directory), "@")


def files(root: Path) -> dict[str, bytes]:
    """What the remote is to have: a link is a file with its target."""
    found: dict[str, bytes] = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[f"{path.relative_to(root)}.rclonelink"] = os.readlink(os.fsencode(path))
        elif path.is_file() and not unequal(path):
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def unequal(path: Path) -> bool:
    """What two runs of a program write differently: inode numbers, times, abilities are in it."""
    return path.name in ("config", "index") or path.suffix in (".pyc", ".pack", ".idx")


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mode for path in root.rglob("*")}


def test_commands_say_and_leave_the_same_as_in_a_local_directory(lab: Lab, sources: Path) -> None:
    local, there = lab.folder / "local", lab.mount.path / "there"
    local.mkdir()
    there.mkdir()
    different = []
    commands = COMMANDS.replace("\\\n", "").strip().splitlines()
    for number, command in enumerate(commands):
        for root in (local, there):
            (root / f"{number}").mkdir()
        wanted = said(command, local / f"{number}", sources)
        found = said(command, there / f"{number}", sources)
        if found != wanted:
            different.append((command, wanted, found))
    assert not different
    assert files(there) == files(local)
    assert modes(there) == modes(local)
    wanted_files = {f"there/{name}": data for name, data in files(local).items()}
    sent = {key: data for key, data in lab.remote().items() if not unequal(Path(key))}
    assert sent == wanted_files
    assert lab.mount.stop() == 0
    environment = lab.server.environment()
    with mounted("s3://b", lab.folder, environment=environment):
        assert files(there) == files(local)
        assert modes(there) == modes(local)


def test_what_a_mount_can_not_do_has_an_errno_that_says_so(lab: Lab) -> None:
    root = lab.mount.path
    (root / "f").write_text("f")
    (root / "d").mkdir()
    with (root / "f").open("r+b") as file:
        for number, attempt in (
            (errno.EINVAL, lambda: (root / "soft.rclonelink").touch()),
            (errno.EINVAL, lambda: (root / "f").rename(root / "soft.rclonelink")),
            (errno.EINVAL, lambda: os.readlink(root / "f")),
            (errno.ENAMETOOLONG, lambda: os.symlink("f", root / ("n" * 245))),
            (errno.EPERM, lambda: os.link(root / "f", root / "hard")),
            (errno.EPERM, lambda: os.mkfifo(root / "pipe")),
            (errno.EPERM, lambda: os.mknod(root / "socket", stat.S_IFSOCK | 0o644)),
            (errno.EOPNOTSUPP, lambda: os.open(root, os.O_TMPFILE | os.O_RDWR)),
            (errno.ENAMETOOLONG, lambda: (root / ("n" * 256)).touch()),
            (errno.ENAMETOOLONG, lambda: (root / ("n" * 256)).mkdir()),
            (errno.ENAMETOOLONG, lambda: (root / ("n" * 256)).stat()),
            (errno.ENAMETOOLONG, lambda: (root / "f").rename(root / ("é" * 128))),
            (errno.EINVAL, lambda: os.mkdir(os.fsencode(root) + b"/\xff")),
            (errno.EEXIST, lambda: (root / "d").mkdir()),
            (errno.EISDIR, lambda: (root / "d").read_bytes()),
            (errno.ENOTDIR, lambda: (root / "f/x").touch()),
        ):
            with pytest.raises(OSError, match=r".") as caught:
                attempt()
            assert caught.value.errno == number, caught.value
        os.posix_fallocate(file.fileno(), 0, 5000)  # the C library's own way, where ours has none
    assert lab.remote() == {"f": b"f" + bytes(4999)}


COUNT = """
import os, sys, time
root = sys.argv[1]
for _ in range(10):
    while True:
        try:
            os.close(os.open(root + "/lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)); break
        except FileExistsError:
            time.sleep(0.002)
    with open(root + "/count") as file: value = int(file.read())
    with open(root + "/count", "w") as file: file.write(str(value + 1))
    os.unlink(root + "/lock")
"""

INSERT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "/db", timeout=60)
for i in range(25):
    with connection: connection.execute("INSERT INTO t VALUES (?)", (i,))
connection.close()
"""


def together(script: str, count: int, root: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", script, root]) for _ in range(count)]
    assert [child.wait(60) for child in children] == [0] * count


def test_lock_files_keep_eight_processes_apart(lab: Lab) -> None:
    (lab.mount.path / "count").write_text("0")
    together(COUNT, 8, lab.mount.path)
    assert lab.remote() == {"count": b"80"}


def test_two_processes_write_to_one_database(lab: Lab) -> None:
    database = lab.mount.path / "db"
    query(database, "CREATE TABLE t (n INTEGER)")
    for journal_mode, rows in (("delete", "50|600"), ("wal", "100|1200")):
        query(database, f"PRAGMA journal_mode={journal_mode}")
        together(INSERT, 2, lab.mount.path)
        assert query(database, "SELECT count(*), sum(n) FROM t") == rows
        assert query(database, "PRAGMA integrity_check") == "ok"
        assert lab.remote() == {"db": database.read_bytes()}


def query(database: Path, statement: str) -> str:
    """In a process of its own: its last connection closes, and with it the write-ahead log."""
    script = (
        "import sqlite3, sys\n"
        "found = sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()\n"
        "print(*('|'.join(map(str, row)) for row in found))\n"
    )
    command = [sys.executable, "-c", script, str(database), statement]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_of_a_killed_writer_everything_stays_that_it_wrote(lab: Lab) -> None:
    script = (
        "import sys\n"
        "with open(sys.argv[1], 'wb', buffering=0) as file:\n"
        "    for i in range(10**6):\n"
        "        file.write(b'%08d' % i * 8192)\n"
        "        print(i, flush=True)\n"
    )
    path = lab.mount.path / "f"
    child = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said_last = 0
    while said_last < 50:
        said_last = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    said_last = int(rest[-1]) if rest else said_last
    child.wait()
    child.stdout.close()
    data = path.read_bytes()
    assert len(data) >= (said_last + 1) * 65536
    assert data == b"".join(b"%08d" % i * 8192 for i in range(len(data) // 65536 + 1))[: len(data)]
    assert lab.remote() == {"f": data}


def test_who_follows_a_log_sees_each_line_while_it_is_open(lab: Lab) -> None:
    path = lab.mount.path / "events"
    with (
        path.open("ab") as log,
        subprocess.Popen(
            ["tail", "-c", "+1", "-s", "0.05", "-f", path], stdout=subprocess.PIPE, text=True
        ) as follower,
    ):
        assert follower.stdout is not None
        for i in range(20):
            log.write(b"step %d\n" % i)
            log.flush()
            assert follower.stdout.readline() == f"step {i}\n"
        follower.kill()
    assert lab.remote()["events"] == path.read_bytes()


def test_two_machines_with_one_bucket_lose_nothing(lab: Lab) -> None:
    environment = lab.server.environment()
    other_folder = lab.folder / "other"
    other_folder.mkdir()
    ours = lab.mount.path
    (ours / "d").mkdir()
    (ours / "d/f").write_text("first\n")
    (ours / "d/g").write_text("g\n")
    lab.remote()
    with mounted("s3://b", other_folder, environment=environment, metadata_ttl_s=1) as other:
        theirs = other.path
        assert (theirs / "d/f").read_text() == "first\n"
        (ours / "d/new").write_text("new\n")
        lab.remote()
        until((theirs / "d/new").exists)
        with (theirs / "d/f").open("a") as file:
            file.write("theirs\n")
        (theirs / "d/g").rename(theirs / "d/h")
        (ours / "d/f").write_text("ours\n")
        lab.remote()
        other.cli("flush", str(theirs))
        for mount in (lab.mount, other):
            mount.cli("refresh", str(mount.path))
        found = {re.sub(r" \(.*\)", " (conflict)", key): data for key, data in lab.remote().items()}
        assert found.keys() == {"d/f", "d/f (conflict)", "d/h", "d/new"}
        assert sorted((found["d/f"], found["d/f (conflict)"])) == [b"first\ntheirs\n", b"ours\n"]
        assert files(ours) == files(theirs) == lab.remote()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
