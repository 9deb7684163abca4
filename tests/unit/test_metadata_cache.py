"""Listings that survive a restart."""

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mountd_cache.durable_io import DirectoryNotPrivate
from mountd_cache.listing import Listing, Row
from mountd_cache.metadata_batch import Batch, CachedListing
from mountd_cache.metadata_cache import MetadataCache
from mountd_cache.metadata_store import MetadataStore

NOW = 1_800_000_000.0


def listing(*names: str, size: int = 1) -> Listing:
    return Listing.build(
        Row(name.encode(), False, size, 5, "v", i + 2) for i, name in enumerate(names)
    )


@contextmanager
def opened(
    folder: Path,
    memory_limit_bytes: int = 1 << 27,
    disk_limit_bytes: int = 1 << 30,
    backlog_bytes: int = 1 << 25,
) -> Iterator[MetadataCache]:
    cache = MetadataCache(
        folder / "meta",
        memory_limit_bytes=memory_limit_bytes,
        disk_limit_bytes=disk_limit_bytes,
        backlog_bytes=backlog_bytes,
        wall_clock=lambda: NOW,
    )
    try:
        yield cache
    finally:
        cache.close()


def names(cache: MetadataCache, directory: str) -> list[bytes] | None:
    cached = cache.get(directory)
    return None if cached is None else [row.name for row in cached.listing]


def database(folder: Path) -> Path:
    return folder / "meta" / "listings" / "cache.db"


def test_a_listing_is_known_at_once_and_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        assert cache.get("a/") is None
        cache.put("a/", listing("x", "y"), NOW - 5)
        cached = cache.get("a/")
        assert cached is not None
        assert cached.fetched_at == NOW - 5
    with opened(tmp_path) as cache:
        assert cache.get("a/") == cache.get("a/")
        assert names(cache, "a/") == [b"x", b"y"]
        again = cache.get("a/")
        assert again is not None
        assert again.fetched_at == NOW - 5


@pytest.mark.parametrize("key", ["", "/", "a//../", "é\udcff/", "a" * 5000 + "/", "\0/"])
def test_any_key_is_kept(tmp_path: Path, key: str) -> None:
    with opened(tmp_path) as cache:
        cache.put(key, listing("x"), NOW)
    with opened(tmp_path) as cache:
        assert names(cache, key) == [b"x"]


def test_the_newest_of_several_changes_is_what_a_restart_finds(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        for size in range(50):
            cache.put("a/", listing("x", size=size), NOW)
        cache.touch("a/", NOW - 1)
        cache.put("gone/", listing("x"), NOW)
        cache.forget("gone/")
        cache.touch("unknown/", NOW)
    with opened(tmp_path) as cache:
        cached = cache.get("a/")
        assert cached is not None
        assert (cached.listing.size(0), cached.fetched_at) == (49, NOW - 1)
        assert cache.get("gone/") is None
        assert cache.get("unknown/") is None


@pytest.mark.parametrize("restart", [False, True])
def test_expire_and_forget_below_reach_memory_and_disk(tmp_path: Path, restart: bool) -> None:
    with opened(tmp_path) as cache:
        for key in ("", "a/", "a/b/", "ab/", "c/", "c/d/"):
            cache.put(key, listing("x"), NOW)
        cache.flush()
        if restart:
            cache.close()
            cache = MetadataCache(tmp_path / "meta", wall_clock=lambda: NOW)
        cache.expire("a/")
        cache.forget_below("c/")
        cache.put("c/new/", listing("x"), NOW)
        for _ in range(2):
            times = {
                key: cached.fetched_at
                for key in ("", "a/", "a/b/", "ab/", "c/", "c/d/", "c/new/")
                if (cached := cache.get(key)) is not None
            }
            assert times == {"": NOW, "a/": 0, "a/b/": 0, "ab/": NOW, "c/new/": NOW}
            cache.close()
            cache = MetadataCache(tmp_path / "meta", wall_clock=lambda: NOW)
        cache.close()


def test_a_time_in_the_future_is_expired(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        cache.put("a/", listing("x"), NOW + 1)
        for _ in range(2):
            cached = cache.get("a/")
            assert cached is not None
            assert cached.fetched_at == 0


def test_a_token_is_kept_with_its_time_and_ends_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        for key in ("put/", "touched/", "expired/", "below/it/", "lost/", "revived/"):
            cache.put(key, listing("f"), NOW - 5, "token")
        cache.touch("touched/", NOW, "another")
        cache.touch("expired/", 0.0)
        cache.expire("below/")
        cache.put("lost/", listing("g"), NOW)
        known = cache.get("revived/")
        assert known is not None
        cache.revive("revived/", known.tag, NOW)
        cache.revive("put/", b"other", NOW)
        assert _times(cache)["revived/"] == (NOW, "token")
    with opened(tmp_path) as cache:
        assert _times(cache) == {
            "put/": (NOW - 5, "token"),
            "touched/": (NOW, "another"),
            "expired/": (0.0, ""),
            "below/it/": (0.0, ""),
            "lost/": (NOW, ""),
            "revived/": (NOW - 5, "token"),
        }


def _times(cache: MetadataCache) -> dict[str, tuple[float, str]]:
    found: dict[str, tuple[float, str]] = {}
    for key in ("put/", "touched/", "expired/", "below/it/", "lost/", "revived/"):
        cached = cache.get(key)
        assert cached is not None
        found[key] = (cached.fetched_at, cached.token)
    return found


def test_memory_is_bounded_and_the_rest_comes_from_disk(tmp_path: Path) -> None:
    with opened(tmp_path, memory_limit_bytes=20_000) as cache:
        for i in range(200):
            cache.put(f"{i}/", listing(*(f"name-{j:04}" for j in range(20))), NOW)
            assert cache.memory_bytes <= 20_000
        assert all(len(names(cache, f"{i}/") or ()) == 20 for i in range(200))
        assert cache.memory_bytes <= 20_000
        cache.flush()
        assert all(len(names(cache, f"{i}/") or ()) == 20 for i in range(200))


def test_one_listing_larger_than_the_memory_is_still_held(tmp_path: Path) -> None:
    with opened(tmp_path, memory_limit_bytes=1000) as cache:
        cache.put("a/", listing(*(f"{i}" for i in range(1000))), NOW)
        first = cache.get("a/")
        second = cache.get("a/")
        assert first is not None
        assert first is second


def test_the_disk_is_bounded(tmp_path: Path) -> None:
    limit = 2 << 20
    with opened(tmp_path, disk_limit_bytes=limit) as cache:
        for i in range(300):
            rows = (Row(os.urandom(20), False, 1, 1, "v", 2) for _ in range(500))
            cache.put(f"{i}/", Listing.build(rows), NOW)
            if i % 10 == 0:
                assert cache.flush()
    assert database(tmp_path).stat().st_size <= limit + (1 << 18)
    with opened(tmp_path) as cache:
        assert names(cache, "299/") is not None, "the newest went"
        assert cache.get("0/") is None


def test_a_large_batch_does_not_push_out_what_it_puts(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path / "store", limit_bytes=1 << 20)
    assert store.write([(b"%d" % i, bytes(20_000)) for i in range(40)])
    assert store.write([(b"new %d" % i, bytes(20_000)) for i in range(30)])
    assert all(store.get(b"new %d" % i) for i in range(30))
    assert store.get(b"0") is None
    store.close()


def test_a_backlog_that_is_full_loses_the_disk_copy_but_never_revives_an_old_one(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as cache:
        cache.put("a/", listing("old"), NOW)
    with opened(tmp_path, backlog_bytes=0) as cache:
        cache.put("a/", listing("new"), NOW)
        assert names(cache, "a/") == [b"new"]
        cache.touch("a/", NOW)
        assert cache.health.given_up == 1
    with opened(tmp_path) as cache:
        assert cache.get("a/") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(b"\0" * 8192),
        lambda path: _sql(path, "DROP TABLE Cache"),
        lambda path: _sql(path, "DROP TABLE Settings"),
        lambda path: _sql(path, "DELETE FROM Settings"),
        lambda path: _sql(path, "UPDATE Settings SET value = 'nonsense'"),
        lambda path: _sql(path, "UPDATE Cache SET value = 5"),
        lambda path: _sql(
            path, "UPDATE Cache SET value = 'text', mode = 3, filename = '/etc/passwd'"
        ),
        lambda path: _sql(path, "UPDATE Cache SET value = x'00'"),
        lambda path: _sql(path, "UPDATE Cache SET value = NULL, filename = '../../x', mode = 2"),
    ],
)
def test_a_damaged_database_never_keeps_new_listings_from_the_disk(
    tmp_path: Path, damage: object
) -> None:
    with opened(tmp_path) as cache:
        for i in range(50):
            cache.put(f"{i}/", listing("x"), NOW)
    assert callable(damage)
    damage(database(tmp_path))
    with opened(tmp_path) as cache:
        assert all(names(cache, f"{i}/") in (None, [b"x"]) for i in range(50))
        cache.put("new/", listing("y"), NOW)
        cache.flush()
        cache.put("newer/", listing("z"), NOW)
        assert cache.flush()
    with opened(tmp_path) as cache:
        assert names(cache, "newer/") == [b"z"]


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (os.environ["BOMB"],))


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
def test_a_pickle_in_the_database_is_never_loaded(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    bomb = pickle.dumps(Bomb())
    with opened(tmp_path) as cache:
        cache.put("a/", listing("x"), NOW)
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.execute("UPDATE Cache SET mode = ?, value = ?", (mode, bomb))
        connection.execute(
            "INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 4, ?)", (bomb, bomb)
        )
        connection.commit()
    with opened(tmp_path) as cache:
        assert cache.get("a/") is None
        cache.forget_below("")
        cache.flush()
    assert not (tmp_path / "exploded").exists()
    assert pickle.loads(bomb) is None, "the bomb is real"
    assert (tmp_path / "exploded").exists()


def test_a_flipped_bit_in_a_listing_is_a_miss(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        cache.put("a/", listing("needle"), NOW)
    path = tmp_path / "meta/listings/cache.db"
    content = path.read_bytes()
    assert b"needle" in content
    path.write_bytes(content.replace(b"needle", b"noodle"))
    with opened(tmp_path) as cache:
        assert cache.get("a/") is None


def test_a_time_that_waits_for_the_disk_outdates_the_one_on_disk() -> None:
    batch = Batch()
    assert not batch.expires("a/")
    batch.touch("a/", CachedListing(listing("x"), 0.0))
    assert batch.expires("a/")
    assert not batch.forgets("a/")


def test_an_old_listing_never_wears_the_time_of_a_newer_one(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        cache.put("a/", listing("old"), NOW - 100)
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        ((old,),) = connection.execute("SELECT value FROM Cache WHERE key = ?", (b"La/",))
    with opened(tmp_path) as cache:
        cache.put("a/", listing("new"), NOW)
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (old, b"La/"))
        connection.commit()
    with opened(tmp_path) as cache:
        cached = cache.get("a/")
        assert cached is not None
        assert cached.listing.name(0) == b"old"
        assert cached.fetched_at == 0


def test_what_was_read_from_disk_never_replaces_what_was_put_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path, memory_limit_bytes=0) as cache:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                cache.get("a/")
                cache.get("other/")  # pushes a/ out of the memory: the next get is from disk

        cache.put("other/", listing("x"), NOW)
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for size in range(200):
                cache.put("a/", listing("x", size=size), NOW)
                if size % 3 == 0:
                    cache.flush()
                cached = cache.get("a/")
                assert cached is not None
                assert cached.listing.size(0) == size
        finally:
            stop.set()
            for reader in readers:
                reader.join(30)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir(mode=0o755)
    with pytest.raises(DirectoryNotPrivate, match="chmod 700"):
        MetadataCache(tmp_path / "meta")


def test_without_a_database_the_memory_still_works(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        cache.put("a/", listing("old"), NOW)
    database(tmp_path).unlink()
    for suffix in ("-wal", "-shm"):
        database(tmp_path).with_name(f"cache.db{suffix}").unlink(missing_ok=True)
    database(tmp_path).mkdir()
    with opened(tmp_path) as cache:
        cache.put("a/", listing("x"), NOW)
        assert names(cache, "a/") == [b"x"]
        assert not cache.flush(5)
        assert cache.health.errors > 0
        assert cache.reserve_inodes(5) >= 2


MILLION = """
import resource, sys, time
from pathlib import Path
from mountd_cache.listing import Listing, Row
from mountd_cache.metadata_batch import Batch, CachedListing
from mountd_cache.metadata_cache import MetadataCache

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

limit = int(sys.argv[2])
cache = MetadataCache(Path(sys.argv[1]), memory_limit_bytes=limit)
before, started = rss(), time.perf_counter()
for d in range(1000):
    rows = [
        Row(b"image_%09d.jpeg" % i, False, i, i, f'"{d * 1000003 + i:032x}"', d * 1000 + i + 2)
        for i in range(1000)
    ]
    cache.put(f"dir-{d}/", Listing.build(rows), 1.0)
    if d % 100 == 99:
        assert cache.flush(60)
assert cache.flush(60)
print(rss() - before, time.perf_counter() - started)
assert all(len(cache.get(f"dir-{d}/").listing) == 1000 for d in range(0, 1000, 37))
cache.close()
"""


@pytest.mark.parametrize(("limit_mib", "allowed_mib"), [(256, 130), (24, 70)])
def test_a_million_names_fit_in_memory(tmp_path: Path, limit_mib: int, allowed_mib: int) -> None:
    run = [sys.executable, "-c", MILLION, str(tmp_path / "meta"), str(limit_mib << 20)]
    output = subprocess.run(run, capture_output=True, timeout=250, check=True).stdout.split()
    print(f"limit {limit_mib} MiB: {int(output[0]) >> 20} MiB in {float(output[1]):.1f} s")
    assert int(output[0]) <= allowed_mib << 20
