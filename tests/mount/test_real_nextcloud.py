"""A user's day on a real Nextcloud that the environment names. `tests/servers/real_nextcloud.py`
says how; without it nothing here runs."""

import errno
import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.real_nextcloud_day import Day, a_day, flush, needs_one, until

pytestmark = needs_one
MIB = 1 << 20


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    with a_day(tmp_path) as found:
        yield found


def small_tree(path: Path) -> dict[str, bytes]:
    """A few directories of a few files, as `cp -r` finds them."""
    files = {f"{d}f{n}": f"{d} {n}\n".encode() * 100 for d in ("", "a/", "a/b/") for n in range(6)}
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return files


def large(mib: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % n).digest() * (MIB // 32) for n in range(mib))


def test_a_tree_that_was_copied_in_is_there_for_everybody(day: Day, tmp_path: Path) -> None:
    files = small_tree(tmp_path / "tree")
    at = day.mount()
    day.forget_requests()
    subprocess.run(["cp", "-r", tmp_path / "tree", at.path / "tree"], check=True)
    flush(at)
    assert day.requests() == {"PUT": len(files), "MKCOL": 3}
    assert day.looks() <= 5
    for name, data in files.items():
        assert day.server.read(f"tree/{name}") == data
    assert day.server.names("tree") == ["a", *(f"f{n}" for n in range(6))]
    at = day.mount()
    day.forget_requests()
    assert {name: (at.path / "tree" / name).read_bytes() for name in files} == files
    assert day.requests() == {}  # all of it is in the cache, also after a remount


def test_git_works_in_it_and_finds_nothing_changed_after_a_remount(
    day: Day, tmp_path: Path
) -> None:
    small_tree(tmp_path / "origin")
    git(tmp_path / "origin", "init", "-q")
    git(tmp_path / "origin", "add", ".")
    git(tmp_path / "origin", "commit", "-qm", "first")
    at = day.mount()
    git(tmp_path, "clone", "-q", "--no-hardlinks", str(tmp_path / "origin"), str(at.path / "work"))
    (at.path / "work/f0").write_bytes(b"changed\n")
    git(at.path / "work", "commit", "-qam", "second")
    flush(at)
    at = day.mount()
    day.forget_requests()
    assert git(at.path / "work", "status", "--porcelain") == ""
    assert day.requests() == {}
    git(at.path / "work", "fsck", "--strict")
    git(at.path / "work", "push", "-q", "origin", "HEAD:refs/heads/pushed")
    assert git(tmp_path / "origin", "show", "pushed:f0") == "changed\n"


def git(where: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "gc.auto=0"]
    command = ["git", *who, "-c", "safe.directory=*", "-C", str(where), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.parametrize("keeps_backup", [True, False], ids=["as vim", "by a temporary file"])
def test_an_editor_that_saves_by_renaming_leaves_one_file_with_its_id_and_favourite(
    day: Day, keeps_backup: bool
) -> None:
    day.server.put("paper.tex", b"first")
    day.server.favour("paper.tex")
    number = day.server.value("paper.tex", "oc:fileid")
    at = day.mount(write_back_s=5)  # a busy machine's editor takes longer than a second
    for text in (b"second, longer", b"third, still longer"):
        assert (at.path / "paper.tex").read_bytes() != text
        day.forget_requests()
        save(at.path / "paper.tex", text, keeps_backup=keeps_backup)
        flush(at)
        assert day.server.read("paper.tex") == text
        assert day.server.names("") == ["paper.tex"]
        assert day.requests() == {"PUT": 1}
        assert day.server.value("paper.tex", "oc:fileid") == number
        assert day.server.value("paper.tex", "oc:favorite") == "1"
    assert day.server.trash() == []


def save(path: Path, text: bytes, *, keeps_backup: bool) -> None:
    """vim makes the old one its backup, which goes at the end; others write beside it and put the
    new one in place."""
    backup, temporary = path.with_name(f"{path.name}~"), path.with_name(f".{path.name}.tmp")
    if keeps_backup:
        path.rename(backup)
    with (path if keeps_backup else temporary).open("wb") as file:
        file.write(text)
        os.fsync(file.fileno())
    if keeps_backup:
        backup.unlink()
    else:
        temporary.rename(path)


def test_a_tree_that_is_removed_is_one_thing_in_the_trash(day: Day) -> None:
    for name in ("d/one", "d/two", "d/sub/three", "d/sub/four"):
        day.server.put(name, name.encode())
    at = day.mount()
    assert len(list(at.path.rglob("*"))) == 6
    day.forget_requests()
    subprocess.run(["rm", "-r", at.path / "d"], check=True)
    flush(at)
    assert day.server.names("") == []
    assert day.server.trash() == ["d"]
    assert day.requests() == {"DELETE": 1}


def test_a_directory_is_renamed_by_one_request_and_keeps_ids_and_favourites(day: Day) -> None:
    for name in ("d/one", "d/sub/two"):
        day.server.put(name, name.encode())
    day.server.favour("d/one")
    day.server.favour("d/sub")
    ids = [day.server.value(name, "oc:fileid") for name in ("d/one", "d/sub/two")]
    at = day.mount()
    assert (at.path / "d/sub/two").read_bytes() == b"d/sub/two"
    day.forget_requests()
    (at.path / "d").rename(at.path / "e")
    assert day.requests() == {"MOVE": 1}
    assert (at.path / "e/sub/two").read_bytes() == b"d/sub/two"
    (at.path / "e/one").write_bytes(b"written over")
    flush(at)
    assert day.server.read("e/one") == b"written over"
    assert ids == [day.server.value(name, "oc:fileid") for name in ("e/one", "e/sub/two")]
    assert day.server.value("e/one", "oc:favorite") == "1"
    assert day.server.value("e/sub", "oc:favorite") == "1"
    assert day.server.trash() == []


def test_a_large_file_goes_by_chunks_and_comes_back_whole(day: Day, tmp_path: Path) -> None:
    data = large(64)
    at = day.mount()
    day.forget_requests()
    (at.path / "large").write_bytes(data)
    flush(at)
    asked = day.requests()
    assert 4 <= asked.pop("PUT") <= 13
    assert asked == {"MKCOL": 1, "MOVE": 1}
    assert day.server.read("large") == data
    assert day.server.value("large", "oc:checksums") == f"MD5:{hashlib.md5(data).hexdigest()}"
    at = day.mount(cache_dir=tmp_path / "another cache")
    assert (at.path / "large").read_bytes() == data
    assert day.server.chunks() == []


def test_a_daemon_killed_in_the_middle_of_an_upload_goes_on_at_the_next_mount(day: Day) -> None:
    data = large(256)
    at = day.mount()
    (at.path / "large").write_bytes(data)
    until(lambda: len(day.server.chunks()) >= 4)
    day.proxy.cut(b"PUT", 100_000)
    assert day.proxy.happened.wait(100)
    at.kill()
    day.forget_requests()
    at = day.mount()
    flush(at)
    # Those before the first whose answer had not come stay, and no others: a chunk has no sum.
    again = [head.split()[1][-5:] for head in day.proxy.heads if head.startswith("PUT ")]
    assert "00001" not in again
    assert day.requests() == {"PUT": len(again), "MOVE": 1, "GET": 1}
    assert day.server.read("large") == data
    assert day.server.chunks() == []


def test_what_is_changed_by_the_web_page_is_seen(day: Day) -> None:
    day.server.put("d/sub/f", b"first")
    day.server.put("other/f", b"other")
    at = day.mount()
    file = at.path / "d/sub/f"
    assert file.read_bytes() == b"first"
    assert (at.path / "other/f").read_bytes() == b"other"
    number = file.stat().st_ino
    day.server.put("d/sub/f", b"second, by the web page")
    day.server.put("d/sub/new", b"new")
    day.forget_requests()
    until(lambda: file.read_bytes() == b"second, by the web page")
    assert file.stat().st_ino != number
    assert sorted(os.listdir(at.path / "d/sub")) == ["f", "new"]
    assert not [head for head in day.proxy.heads if "/other" in head]
    day.server.move("d/sub", "d/moved")
    until(lambda: sorted(os.listdir(at.path / "d")) == ["moved"])
    assert (at.path / "d/moved/new").read_bytes() == b"new"
    day.server.delete("d")
    until(lambda: os.listdir(at.path) == ["other"])


def test_what_both_have_changed_is_there_twice(day: Day) -> None:
    day.server.put("paper.tex", b"old")
    at = day.mount(write_back_s=3600)
    assert (at.path / "paper.tex").read_bytes() == b"old"
    (at.path / "paper.tex").write_bytes(b"ours")
    (at.path / "new.txt").write_bytes(b"ours, too")
    day.server.put("paper.tex", b"theirs")
    day.server.put("new.txt", b"theirs as well")
    flush(at)
    until(lambda: len(day.server.names("")) == 4)
    contents = Counter(day.server.read(name) for name in day.server.names(""))
    assert set(contents) == {b"ours", b"ours, too", b"theirs", b"theirs as well"}
    assert day.server.read("paper.tex") == b"theirs"
    assert day.server.read("new.txt") == b"theirs as well"
    until(lambda: (at.path / "paper.tex").read_bytes() == b"theirs")
    assert at.status()["queue"]["conflicts"] == 2


def test_names_that_the_server_forbids_are_refused_at_once_and_odd_ones_arrive(day: Day) -> None:
    at = day.mount()
    os.listdir(at.path)
    for name in ("a.part", "b.filepart", ".htaccess", "back\\slash", "bell\a"):
        with pytest.raises(OSError, match="Invalid argument") as raised:
            (at.path / name).write_bytes(b"x")
        assert raised.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="Invalid argument"):
            (at.path / name).mkdir()
    odd = ["ein Blatt #1 100%?.txt", "a:b*c", "trailing ", "dot.", "é☃", "+&;=", "x" * 250]
    for name in odd:
        (at.path / name).write_bytes(name.encode())
    flush(at)
    assert day.server.names("") == sorted(odd)
    for name in odd:
        assert day.server.read(name) == name.encode()
    assert at.status()["queue"]["failed"] == 0


def test_a_file_is_renamed_by_one_request_and_keeps_its_id_favourite_share_and_versions(
    day: Day,
) -> None:
    day.server.mkdir("d")
    day.server.put("paper.tex", b"first")
    day.server.put("paper.tex", b"second, which is longer")
    day.server.favour("paper.tex")
    number = day.server.value("paper.tex", "oc:fileid")
    link = day.server.link("paper.tex")
    before = day.server.versions(number)
    assert before
    at = day.mount()
    assert (at.path / "paper.tex").read_bytes() == b"second, which is longer"
    trashed = day.server.trash()
    for old, new in (("paper.tex", "thesis ü.tex"), ("thesis ü.tex", "d/thesis.tex")):
        day.forget_requests()
        with (at.path / old).open("rb") as reader:
            (at.path / old).rename(at.path / new)
            flush(at)
            assert day.requests() == {"MOVE": 1}
            assert reader.read() == b"second, which is longer"
    assert day.server.value("d/thesis.tex", "oc:fileid") == number
    assert day.server.value("d/thesis.tex", "oc:favorite") == "1"
    assert day.server.versions(number) == before
    assert day.server.path_of(link) == "d/thesis.tex"
    assert day.server.trash() == trashed
    assert day.server.names("") == ["d"]
