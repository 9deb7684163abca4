"""What a start has set aside is in the status until somebody has dealt with it."""

import shutil
from pathlib import Path

import trio

from mountd.running.set_aside import SetAside
from tests.fakes.keeping import until


async def test_what_was_set_aside_is_named_until_it_is_gone(tmp_path: Path) -> None:
    assert SetAside(tmp_path).names == []
    place = tmp_path / "journal" / "quarantine" / "20260131T100000Z"
    place.mkdir(parents=True)
    (place / "README.txt").write_text("why")
    (place / "3-0.data").write_bytes(b"dirty")
    aside = SetAside(tmp_path)
    assert aside.names == ["20260131T100000Z/3-0.data"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aside.keep, 0.01)
        shutil.rmtree(place.parent)
        await until(lambda: not aside.names)
        nursery.cancel_scope.cancel()
