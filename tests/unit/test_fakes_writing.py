"""The fakes' write half, beyond what the contract suite asks of every store."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mountd.errors import Unreachable, Unsupported, VersionChanged
from mountd.remotes.base import ABSENT, Upload
from tests.fakes.body import BytesBody
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore


def test_a_remote_that_ignores_conditions_overwrites_what_came_after_the_look() -> None:
    store = MemoryStore(enforces=False)
    store.between_look_and_act = lambda key: store.seed(key, b"theirs")

    assert not store.capabilities.conditional_put
    store.put("k", BytesBody(b"ours"), ABSENT, Upload())

    assert store.data("k") == b"ours"


def test_a_remote_that_ignores_conditions_still_looks_first() -> None:
    store = MemoryStore({"k": b"theirs"}, enforces=False)

    with pytest.raises(VersionChanged):
        store.put("k", BytesBody(b"ours"), ABSENT, Upload())
    with pytest.raises(VersionChanged):
        store.delete("k", "g999")

    assert store.data("k") == b"theirs"


def test_a_store_without_server_copy_refuses_to_copy() -> None:
    store = MemoryStore({"k": b""}, server_copy=False)

    assert not store.capabilities.server_copy
    with pytest.raises(Unsupported):
        store.copy("k", store.stat("k").version, "l", ABSENT, Upload())


def test_a_store_that_takes_whole_files_refuses_deltas() -> None:
    store = MemoryStore({"k": b"1"}, put_delta=False)
    version = store.stat("k").version

    assert not store.capabilities.put_delta
    with pytest.raises(Unsupported):
        store.put_delta("k", BytesBody(b"12"), version, Upload(), "k", version, [(0, 1)])


def test_a_fault_meets_a_delta_at_the_key_that_it_makes() -> None:
    store = FaultStore(MemoryStore({"k": b"1"}))
    store.add("put_delta", Unreachable("lost"), key="made", after_effect=True)
    version = store.stat("k").version

    with pytest.raises(Unreachable):
        store.put_delta("made", BytesBody(b"12"), ABSENT, Upload(), "k", version, [(0, 1)])

    assert store.requests[-1] == ("put_delta", "made")
    assert store.stat("made").size == 2


def test_what_came_with_a_put_can_be_looked_at() -> None:
    store = MemoryStore()
    upload = Upload("id", 5, {"mode": "33188"})

    store.put("k", BytesBody(b"x"), None, upload)

    assert store.upload("k") == upload
    assert store.keys() == ["k"]
    assert store.calls["put"] == 1


def test_a_lost_answer_is_a_put_that_took_effect() -> None:
    memory = MemoryStore()
    faults = FaultStore(memory)
    faults.add("put", Unreachable("reset"), after_effect=True)

    with pytest.raises(Unreachable):
        faults.put("k", BytesBody(b"x"), ABSENT, Upload())

    assert memory.data("k") == b"x"
    assert faults.requests == [("put", "k")]


def test_a_fault_for_writes_hits_each_of_them_and_no_read() -> None:
    memory = MemoryStore({"k": b"x"})
    faults = FaultStore(memory)
    version = memory.stat("k").version
    fault = faults.add("write", Unreachable("refused"))

    faults.identify("k")
    list(faults.list_tree(""))
    for write in (
        lambda: faults.put("k", BytesBody(b""), None, Upload()),
        lambda: faults.copy("k", version, "l", None, Upload()),
        lambda: faults.delete("k", None),
        lambda: faults.make_dir("d/"),
        lambda: faults.remove_dir("d/"),
    ):
        with pytest.raises(Unreachable):
            write()

    assert fault.hits == 5
    assert memory.keys() == ["k"]


def test_a_put_that_hangs_goes_on_when_it_is_let_go() -> None:
    memory = MemoryStore()
    faults = FaultStore(memory)
    go_on = threading.Event()
    fault = faults.add("put", hang=go_on)

    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(faults.put, "k", BytesBody(b"x"), ABSENT, Upload())
        assert fault.reached.wait(5)
        assert memory.keys() == []
        go_on.set()
        entry = put.result(5)

    assert entry == memory.stat("k")
