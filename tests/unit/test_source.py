"""SOURCE: what each form means, and the one line that a wrong one gets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.config.source import Source, parse_source, split_remote_path, without_secrets
from mountd.errors import UsageError


@pytest.mark.parametrize(
    ("text", "scheme", "authority", "prefix", "shown"),
    [
        ("s3://lab/data/", "s3", "lab", "data", "s3://lab/data"),
        ("s3://lab", "s3", "lab", "", "s3://lab"),
        ("S3://lab/a//b", "s3", "lab", "a//b", "s3://lab/a//b"),
        ("s3://", "s3", "", "", "s3://"),
        ("gs://", "gs", "", "", "gs://"),
        ("gcs://b/p", "gs", "b", "p", "gs://b/p"),
        ("s3a://b/p", "s3", "b", "p", "s3://b/p"),
        ("az://box/p q/%20", "az", "box", "p q/%20", "az://box/p q/%20"),
        ("webdav://h:8443/dav/x", "webdav", "h:8443", "dav/x", "webdav://h:8443/dav/x"),
        ("webdav+http://[::1]:80/", "webdav+http", "[::1]:80", "", "webdav+http://[::1]:80"),
        ("nextcloud://ann@cloud.example/Docs", "nextcloud", "cloud.example", "Docs", None),
        ("memory://", "memory", "", "", "memory://"),
        ("memory://a/b", "memory", "", "a/b", "memory://a/b"),
        ("sftp://bob@host:22/home/bob", "sftp", "host:22", "home/bob", None),
        ("abfs://box@account.dfs.core.windows.net/p", "abfs", None, "p", None),
    ],
)
def test_every_form_of_source_is_taken_apart(
    text: str, scheme: str, authority: str | None, prefix: str, shown: str | None
) -> None:
    source = parse_source(text)
    assert (source.scheme, source.prefix) == (scheme, prefix)
    assert authority is None or source.authority == authority
    assert shown is None or source.text == shown


def test_a_user_name_is_kept_apart_from_what_is_shown() -> None:
    source = parse_source("nextcloud://ann@cloud.example/Docs")
    assert source.user == "ann"
    assert "ann" not in source.text


def test_a_local_directory_is_made_plain(tmp_path: Path) -> None:
    source = parse_source(f"file://{tmp_path}/x/../")
    assert source == Source("file", "", str(tmp_path)[1:], f"file://{tmp_path}")


def test_the_root_directory_is_a_source() -> None:
    assert parse_source("file:///").text == "file:///"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("s3://a\nb", "control characters"),
        ("s33://b", "did you mean s3?"),
        ("s4://b", "did you mean s3?"),
        ("webdaw://h/", "did you mean webdav?"),
        ("nothing-like-it://b", "unknown scheme nothing-like-it://"),
        ("s3:///key", "bucket is missing; write s3://BUCKET/path"),
        ("webdav://", "host is missing"),
        ("webdav://host:port/x", "port after the : is no number"),
        ("webdav://:80/x", "host is missing"),
        ("nextcloud:///x", "host is missing"),
        ("file://dir", "three slashes"),
        ("file://", "write file:///dir"),
        ("file:///etc/passwd", "is no directory"),
        ("C:\\data", "Windows path"),
        ("c:/data", "Windows path"),
        ("\\\\server\\share", "Windows path"),
        ("/data", "file:///data"),
        ("lab:data", "no remote lab"),
        ("rclone:lab:data", "a remote of rclone is not taken here"),
        ("simplecache::s3://b", "chained"),
        ("https://h/remote.php/dav/files/ann", "nextcloud://HOST/PATH"),
        ("bucket", "is no URL"),
    ],
)
def test_a_wrong_source_gets_one_line_that_names_the_fix(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "webdav://ann:s3cret@host/x",
        "webdav://ann:s3cret/with/slashes@host/x",
        "webdav://ann:s3cret@w@host/x",
        "s3://key:s3cret@bucket/x",
        "unknown-scheme://ann:s3cret@host",
        "webdav://ann:s3cret@host:nonsense/",
    ],
)
def test_a_password_in_source_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert "s3cret" not in str(caught.value)
    assert "with/slashes" not in str(caught.value)


def test_a_remote_of_the_config_file_is_told_from_a_url() -> None:
    assert split_remote_path("lab:a/b") == ("lab", "a/b")
    assert split_remote_path("lab:") == ("lab", "")
    assert split_remote_path("s3://lab/a") is None
    assert split_remote_path("/lab:a") is None


@given(st.text(min_size=1, max_size=40))
def test_any_text_is_a_source_or_one_line(text: str) -> None:
    try:
        source = parse_source(text)
    except UsageError:
        return
    assert source.prefix == source.prefix.strip("/")
    assert source.scheme == source.scheme.lower()


@given(user=st.text("abc", min_size=1), secret=st.text("xyz:@/", min_size=1))
def test_blotting_out_leaves_nothing_of_a_password(user: str, secret: str) -> None:
    assert without_secrets(f"webdav://{user}:{secret}@host/p") == "webdav://***@host/p"
