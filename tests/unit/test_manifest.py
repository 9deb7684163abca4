"""The manifest as a file: what it says, and what is refused of what anybody may have written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.errors import UsageError
from mountd.manifest import (
    MAX_BYTES,
    Location,
    Manifest,
    ManifestFile,
    is_manifest,
    make_manifest,
    manifest_source,
    read_manifest,
    write_manifest,
)

S3 = Location("s3://lab/data", "https://s3.example")


def file(path: str = "a", **more: Any) -> ManifestFile:
    fields: dict[str, Any] = {
        "size": 1,
        "mtime_ns": 5,
        "version": '"e"',
        "at": 0,
        "key": path,
    } | more
    return ManifestFile(path, **fields)


def written(folder: Path, **changes: Any) -> Path:
    """A manifest with one file, `a`, whose fields, or the document's, are changed."""
    of_file = {"path": "a", "size": 1, "version": "v"}
    document: dict[str, Any] = {
        "mountd_manifest": 1,
        "locations": [{"source": "s3://lab"}],
        "files": [of_file],
    }
    for name, value in changes.items():
        (document if name in ("mountd_manifest", "locations", "files") else of_file)[name] = value
    path = folder / "set.json"
    path.write_text(json.dumps(document))
    return path


def test_what_was_written_is_read_and_written_again_as_the_same_bytes(tmp_path: Path) -> None:
    other = Location("gs://raw")
    files = [
        file("z/ü", at=1, key="elsewhere/x", sums={"md5": "0" * 32, "crc32c": "01234567"}),
        file("a b", version_id="v1", mtime_ns=0),
        file("n\udcff", size=0),
    ]
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    write_manifest(one, make_manifest([other, S3], files))
    found = read_manifest(one)
    assert [f.path for f in found.files] == ["a b", "n\udcff", "z/ü"]
    assert [found.locations[f.at] for f in found.files] == [other, other, S3]
    write_manifest(two, make_manifest(reversed(found.locations), reversed(_turned(found))))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().isascii()


def _turned(manifest: Manifest) -> list[ManifestFile]:
    last = len(manifest.locations) - 1
    return [file(f.path, at=last - f.at, **_rest(f)) for f in manifest.files]


def _rest(f: ManifestFile) -> dict[str, Any]:
    names = ("size", "mtime_ns", "version", "key", "sums", "version_id")
    return {name: getattr(f, name) for name in names}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(
            ({"path": path}, "refused")
            for path in ("../a", "/a", "a//b", "a/", "./a", "a\0b", "..")
        ),
        ({"path": ""}, "no name"),
        ({"path": 5}, "no name"),
        ({"path": "a/" * 3000 + "b"}, "longer"),
        ({"key": "../../etc/shadow"}, "refused as a key"),
        *(({"size": size}, "its size") for size in (-1, 1.5, "1", None, True, 1 << 70)),
        ({"version": ""}, "its version"),
        ({"version": "a\0b"}, "its version"),
        ({"version": None}, "its version"),
        ({"mtime_ns": 1 << 80}, "its mtime_ns"),
        ({"at": 1}, "no location 1"),
        ({"at": -1}, "its at"),
        ({"md5": "xyz"}, "its md5"),
        ({"mountd_manifest": 2}, "has format 2; this mountd reads 1"),
        ({"mountd_manifest": "1"}, "no manifest of mountd"),
        ({"locations": {}}, "locations"),
        ({"locations": ["s3://lab"]}, "a location"),
        ({"locations": [{"source": "s3://lab\n"}]}, "its source"),
        ({"files": ["a"]}, "files"),
        ({"files": None}, "files"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        read_manifest(written(tmp_path, **changes))
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("paths", "words"),
    [(["a", "b", "a"], "'a' is there twice"), (["a/b/c", "a/b"], "'a/b' is a file and a folder")],
)
def test_names_that_exclude_one_another_are_refused(
    tmp_path: Path, paths: list[str], words: str
) -> None:
    rows = [{"path": path, "size": 1, "version": "v"} for path in paths]
    with pytest.raises(UsageError, match=words):
        read_manifest(written(tmp_path, files=rows))
    with pytest.raises(UsageError, match=words):
        make_manifest([S3], [file(path) for path in paths])


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[]", "5", '"x"', "null", "{}", "[" * 100_000, '{"mountd_manifest": NaN}'),
        *(
            '{"mountd_manifest": 1, "mountd_manifest": 1}',
            '{"mountd_manifest": ' + "9" * 9999 + "}",
        ),
        *('{"path": {"path": 1}}', "\ufeff{}", '{"mountd_manifest": 1}'),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_manifest(path)


def test_a_file_of_a_gigabyte_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    with pytest.raises(UsageError, match=f"more than {MAX_BYTES} are refused"):
        read_manifest(path)


def test_what_is_no_file_is_refused_and_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "no file"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=words):
            read_manifest(path)
    with pytest.raises(UsageError):
        read_manifest(tmp_path)


def test_keys_that_a_later_mountd_may_add_are_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path, comment="new", locations=[{"source": "s3://lab", "what": 1}])
    assert [f.path for f in read_manifest(path).files] == ["a"]


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_being_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "set.json"
    path.write_bytes(data)
    with pytest.raises(UsageError):
        read_manifest(path)


def test_which_sources_are_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_manifest("manifest:a.json")
    assert not is_manifest("manifest://a.json")
    assert manifest_source("manifest:a.json").text == f"manifest:{tmp_path}/a.json"
    with pytest.raises(UsageError):
        manifest_source("manifest:")
