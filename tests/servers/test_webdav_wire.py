"""What webdav:// costs on the wire, counted by Apache's own log and by the kernel."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.webdav import WebdavStore, open_webdav
from tests.servers.apache import running_apache
from tests.servers.dav import PASSWORD, USER, DavServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def apache() -> Iterator[DavServer]:
    with (
        tempfile.TemporaryDirectory(prefix="mountd-wire-") as directory,
        running_apache(Path(directory)) as server,
    ):
        yield server


@pytest.fixture
def store(apache: DavServer) -> Iterator[WebdavStore]:
    settings = Settings(
        cache_dir=Path("/nonexistent"), credentials={"user": USER, "password": PASSWORD}
    )
    opened = open_webdav(Source("webdav+http", apache.authority, "", "webdav+http://x"), settings)
    yield opened
    opened.close()


def logged(apache: DavServer, path: str) -> list[tuple[str, int, int]]:
    """(method, status, bytes sent with headers) of each request for `path`.

    Apache writes its line after the answer: a later answer on the same connection says that the
    line is there, so each test ends with a stat of something else.
    """
    lines = (apache.files.parent / "access.log").read_text().splitlines()
    words = (line.split(" ", 4) for line in lines)
    return [(word[0], int(word[1]), int(word[3])) for word in words if word[4] == path]


def test_a_stat_in_a_directory_of_many_is_one_small_request(
    apache: DavServer, store: WebdavStore
) -> None:
    directory = apache.files / "many"
    directory.mkdir()
    for n in range(500):
        (directory / f"{n}").write_bytes(b"x")
    store.stat("many/7")
    store.stat("many/")
    store.stat("")
    (file,) = logged(apache, "/many/7")
    (itself,) = logged(apache, "/many/")
    assert file[:2] == itself[:2] == ("PROPFIND", 207)
    assert file[2] < 2000
    assert itself[2] < 2000


def test_a_thousand_bytes_move_a_thousand_bytes(apache: DavServer, store: WebdavStore) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB
    (apache.files / "big").write_bytes(data)
    version = store.stat("big").version
    for start in range(0, 10_000_000, 1_000_000):
        assert store.read("big", start, start + 1000, version) == data[start : start + 1000]
    store.stat("")
    gets = [line for line in logged(apache, "/big") if line[0] == "GET"]
    assert [status for _, status, _ in gets] == [206] * 10
    assert max(sent for _, _, sent in gets) < 1500
