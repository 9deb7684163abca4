"""The same through the kernel: a mounted daemon is used, killed and mounted again, and always is
what a plain file system in memory is; in the end the remote is, too.

MODEL_EXAMPLES=200 makes it a long run.
"""

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path as FolderPath
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.model.reference import Directory, File, Link, Node, Path, Reference
from tests.mount.mounting import Mounted, mounted

pytestmark = [pytest.mark.fuse]

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "3"))
names = st.sampled_from("abc")
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
sizes = st.sampled_from([1, 100, 5000, 300_000])
STEPS = st.one_of(
    st.tuples(st.just("create"), paths, sizes),
    st.tuples(st.just("create"), paths, sizes),
    st.tuples(st.just("patch"), paths, st.sampled_from([0, 4096, 70_000]), sizes),
    st.tuples(st.just("append"), paths, sizes),
    st.tuples(st.just("truncate"), paths, sizes),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("make_link"), paths),
    st.tuples(st.just("make_link"), paths),
    st.tuples(st.just("replace_by_link"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("make_directory"), paths),
    st.tuples(st.just("make_directory"), st.tuples(names)),
    st.tuples(st.just("remove_directory"), paths),
    st.tuples(st.just("set_time"), paths),
    st.tuples(st.just("look")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("flush")),
)
SEVERAL = {errno.ENOTEMPTY, errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.EINVAL}
TIME_NS = 1_700_000_000_123_456_789


class ThroughMount:
    """A mount of a local folder and a reference, told the same. `close` ends it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._folder = FolderPath(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mountd-model-"))
        )
        self.remote = self._folder / "remote"
        self.remote.mkdir()
        self.model = Reference()
        self._tokens = 0
        self._mount()

    def _mount(self) -> None:
        self.mount: Mounted = self._stack.enter_context(
            mounted(f"file://{self.remote}", self._folder, write_back_s=0.2)
        )
        self.root = self.mount.path

    def close(self) -> None:
        self._stack.close()

    def kill(self) -> None:
        """SIGKILL, and another daemon in the same place."""
        self.mount.kill()
        subprocess.run(["fusermount3", "-uz", str(self.root)], check=True, timeout=10)
        self._mount()
        self.look()

    def flush(self) -> None:
        self.mount.cli("flush", str(self.root), "--timeout", "25")

    def _bytes(self, size: int) -> bytes:
        self._tokens += 1
        token = b"%07d." % self._tokens
        return (token * (size // len(token) + 1))[:size]

    def _at(self, path: Path) -> FolderPath:
        return self.root.joinpath(*path)

    def _both(
        self, ours: Callable[[], object], theirs: Callable[[], object], *allowed: int
    ) -> None:
        found, wanted = _errno(theirs), _errno(ours)
        assert found == wanted or {found, wanted} <= {*allowed}, (
            f"{errno.errorcode.get(found)} instead of {errno.errorcode.get(wanted)}"
        )

    # -- steps

    def create(self, path: Path, size: int) -> None:
        data = self._bytes(size)

        def theirs() -> None:
            with self._at(path).open("xb") as file:
                file.write(data)

        self._both(lambda: self.model.create(path).write(0, data), theirs)

    def make_link(self, path: Path) -> None:
        target = self._bytes(30)
        self._both(
            lambda: self.model.make_link(path, target),
            lambda: os.symlink(target, os.fsencode(self._at(path))),
        )

    def replace_by_link(self, path: Path) -> None:
        self.make_link(("new",))
        self.rename(("new",), path)
        if "new" in self.model.root.entries:
            self.unlink(("new",))

    def patch(self, path: Path, offset: int, size: int) -> None:
        data = self._bytes(size)

        def theirs() -> None:
            with self._at(path).open("r+b") as file:
                file.seek(offset)
                file.write(data)

        self._both(lambda: self.model.file(path).write(offset, data), theirs)

    def append(self, path: Path, size: int) -> None:
        data = self._bytes(size)

        def theirs() -> None:
            fd = os.open(self._at(path), os.O_WRONLY | os.O_APPEND)
            try:
                assert os.write(fd, data) == size
            finally:
                os.close(fd)

        def ours() -> None:
            file = self.model.file(path)
            file.write(len(file.data), data)

        self._both(ours, theirs)

    def truncate(self, path: Path, size: int) -> None:
        self._both(
            lambda: self.model.file(path).truncate(size),
            lambda: os.truncate(self._at(path), size),
        )

    def rename(self, old: Path, new: Path) -> None:
        is_within = old[: len(new)] == new or new[: len(old)] == old
        self._both(
            lambda: self.model.rename(old, new),
            lambda: self._at(old).rename(self._at(new)),
            *(SEVERAL if is_within and old != new else ()),
        )

    def unlink(self, path: Path) -> None:
        self._both(lambda: self.model.unlink(path), self._at(path).unlink)

    def make_directory(self, path: Path) -> None:
        self._both(lambda: self.model.make_directory(path), self._at(path).mkdir)

    def remove_directory(self, path: Path) -> None:
        self._both(lambda: self.model.remove_directory(path), self._at(path).rmdir)

    def set_time(self, path: Path) -> None:
        def ours() -> None:
            node = self.model.find(path)
            if not isinstance(node, Directory):
                node.mtime_ns = TIME_NS

        times = (TIME_NS, TIME_NS)
        self._both(ours, lambda: os.utime(self._at(path), ns=times, follow_symlinks=False))

    def look(self) -> None:
        assert _tree(self.root) == self._wanted()
        model = self.model
        sizes = {path: len(file.data) for path, file in model.files().items()}
        sizes |= {path: len(link.target) for path, link in model.links().items()}
        for path, node in model.walk():
            if not isinstance(node, Directory):
                told = self._at(path).lstat()
                assert told.st_size == sizes[path]
                assert node.mtime_ns is None or told.st_mtime_ns == node.mtime_ns, path

    def _wanted(self) -> dict[str, bytes | None]:
        return {"/".join(path): _data(node) for path, node in self.model.walk()}

    def finish(self) -> None:
        self.look()
        self.flush()
        self.look()
        assert _tree(self.remote) == self._wanted()


def _data(node: Node) -> bytes | None:
    if isinstance(node, Link):
        return b"-> " + node.target
    return bytes(node.data) if isinstance(node, File) else None


def _tree(root: FolderPath) -> dict[str, bytes | None]:
    """Everything below; None for a directory, and a link in its two forms is the same."""
    found: dict[str, bytes | None] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.parts[len(root.parts)] == ".mountd":
            continue
        if path.is_symlink():
            found[name] = b"-> " + os.readlink(os.fsencode(path))
        elif path.name.endswith(".rclonelink"):
            found[name.removesuffix(".rclonelink")] = b"-> " + path.read_bytes()
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def _errno(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(STEPS, min_size=20, max_size=60))
def test_a_mount_is_a_plain_file_system_whatever_kills_it(steps: Sequence[Sequence[Any]]) -> None:
    world = ThroughMount()
    try:
        for name, *arguments in steps:
            getattr(world, name)(*arguments)
        world.finish()
    finally:
        world.close()
