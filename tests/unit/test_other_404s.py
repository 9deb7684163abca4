"""A 404 that is not the remote's: a proxy's page while what is behind it is away. (Ingresses and
Traefik answer so while a container is started again.) Nothing was deleted."""

from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.errors import ContainerMissing, NotFound, RemoteError, Unreachable, Unsupported
from mountd.remotes.azure_http import azure_error
from mountd.remotes.health import RemoteHealth
from mountd.remotes.health_store import HealthStore
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_errors import s3_error
from mountd.remotes.stack import RemoteStack
from tests.conftest import ExpectedLog
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, names, walk

PAGES = [b"404 page not found\n", b"<html><body>default backend - 404</body></html>", b""]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("status", [404, 410])
def test_a_page_that_is_nobodys_is_unreachable(status: int, page: bytes) -> None:
    headers = {"content-type": "text/html"}
    for told in (s3_error, azure_error):
        error = told(RestAnswer(status, headers, page), "s3://b/k")
        assert type(error) is Unreachable
        assert error.answered


@pytest.mark.parametrize(
    ("code", "expected"),
    [("NoSuchKey", NotFound), ("NoSuchVersion", NotFound), ("NoSuchBucket", ContainerMissing)],
)
def test_s3_says_what_is_missing(code: str, expected: type[RemoteError]) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    assert type(s3_error(RestAnswer(404, {}, body), "s3://b/k")) is expected


@pytest.mark.parametrize(
    ("code", "expected"), [("BlobNotFound", NotFound), ("ContainerNotFound", ContainerMissing)]
)
def test_azure_says_what_is_missing_also_to_head(code: str, expected: type[RemoteError]) -> None:
    error = azure_error(RestAnswer(404, {"x-ms-error-code": code}, b""), "az://c/k")
    assert type(error) is expected


async def test_where_even_the_root_is_not_found_nothing_is_known_to_be_missing(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("not even the mounted directory is found|the remote is degraded|is degraded")
    memory = MemoryStore({"d/f": b"1", "d/g": b"2"}, real_directories=True)
    faults = FaultStore(memory)
    settings = Settings(cache_dir=tmp_path, write_back_s=0.0)
    remote = RemoteStack(faults, settings)
    async with mounted_files(remote.store, tmp_path / "cache", queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        assert await names(fs, "d") == ["f", "g"]
        faults.add("*", NotFound("404 page not found"))
        fs.tree.expire_below("")
        assert await names(fs, "d") == ["f", "g"]
        await fs.unlink((await walk(fs, "d")), b"f")  # type: ignore[arg-type]
        assert await queue.drain("", 1.5) == 1
        assert ("delete", "d/f") in faults.requests
        faults.remove()
        assert await queue.drain("", 30) == 0
        assert memory.keys() == ["d/", "d/g"] or memory.keys() == ["d/g"]
    remote.store.close()


def test_a_404_from_before_the_server_came_back_is_not_believed_either() -> None:
    clock = FakeClock()
    memory = MemoryStore({"d/f": b"1"}, real_directories=True)
    faults = FaultStore(memory)
    store = HealthStore(faults, RemoteHealth(lambda: None, clock=clock))
    faults.add("*", NotFound("404 page not found"))
    with pytest.raises(ContainerMissing):
        store.stat("d/f")
    clock.advance(1)
    faults.remove()
    faults.add("delete", NotFound("404 page not found"))
    with pytest.raises(Unreachable, match="a moment ago"):
        store.delete("d/f", None)
    faults.add("list", NotFound("404 page not found"))
    with pytest.raises(Unreachable, match="a moment ago"):
        list(store.list("d/"))
    clock.advance(10)
    with pytest.raises(NotFound):
        store.stat("d/g")
    assert memory.keys() == ["d/", "d/f"] or memory.keys() == ["d/f"]


def test_a_root_that_can_only_be_listed_is_there() -> None:
    clock = FakeClock()
    faults = FaultStore(MemoryStore({"d/f": b"1"}, real_directories=True))
    store = HealthStore(faults, RemoteHealth(lambda: None, clock=clock))
    for error in (NotFound("'' is a file"), Unsupported("no such request")):
        faults.add("stat", error, key="")
        with pytest.raises(NotFound):
            store.stat("d/g")
        faults.remove()
