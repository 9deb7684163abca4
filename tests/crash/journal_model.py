"""Random steps on a journal, and what must be there after a crash."""

import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from mountd_cache.changes import Base, Change, ChangeKind, ChangeState, Content, Rows
from mountd_cache.journal import Journal, SyncMark
from mountd_cache.recovery import TORN_REASON
from mountd_cache.staging import SPARE, parse_data_name

Snapshot = tuple[dict[str, Change], dict[int, Any]]

_NAMES = 6


def snapshot(journal: Journal) -> Snapshot:
    """The ledger, without contents that no change has: those don't outlive the process."""
    ledger = journal.ledger
    owned = {change.content for change in ledger.changes.values()}
    contents = {id_: _frozen(found) for id_, found in ledger.contents.items() if id_ in owned}
    return dict(ledger.changes), contents


def _frozen(content: Content) -> Any:
    layers = tuple((la.number, la.size, la.floor_end, tuple(la.extents)) for la in content.layers)
    return content.base, layers, content.mtime_ns, content.changed_ns


@dataclass
class Written:
    """A write that was begun: `step` says when."""

    step: int
    offset: int
    data: bytes


@dataclass
class History:
    """What was done to a journal since it was opened, over the bytes that it had then."""

    snapshots: list[Snapshot]
    initial: dict[tuple[int, int], list[int | None]]
    writes: dict[tuple[int, int], list[Written]] = field(default_factory=dict)
    durable_step: int = 0  # the state at least this new survives
    synced: dict[int, int] = field(default_factory=dict)  # content -> step of its last fsync
    synced_all: int = 0
    highest_sequence: int = 0

    @property
    def step(self) -> int:
        return len(self.snapshots) - 1

    def synced_step(self, content: int) -> int:
        return max(self.synced_all, self.synced.get(content, 0))

    def allowed(self, key: tuple[int, int], step: int, at: int) -> tuple[set[int], bool]:
        """Values that the byte may have in the state of `step`, none if it can't be read; whether
        it must be readable: it was fsynced and not written since."""
        first = self.initial.get(key, [])
        known = first[at] if at < len(first) else None
        values = set() if known is None else {known}
        last_step = 0
        for written in self.writes.get(key, []):
            if written.offset <= at < written.offset + len(written.data):
                value = written.data[at - written.offset]
                if written.step <= step:
                    values = {value}
                elif values:
                    # One that a later state has may be there, one that was replaced may not.
                    values = values | {value}
                last_step = written.step
        return values, bool(values) and last_step <= self.synced_step(key[0])


class Actor:
    """Does random steps; each is noted before it begins and after it succeeded."""

    def __init__(
        self, journal: Journal, rng: random.Random, history: History | None = None
    ) -> None:
        """`history`: of a process before it on the same boot, which was killed."""
        self.journal = journal
        self.rng = rng
        self.frozen: dict[int, int] = {}
        self.marks: list[tuple[int, SyncMark]] = []
        self.clock = journal.next_sequence()  # so that no two states are equal
        initial = {}
        for content in journal.ledger.contents.values():
            for layer in content.layers:
                initial[content.id, layer.number] = layer_bytes(journal, content, layer.number)
        self.history = history or History([snapshot(journal)], initial)
        found = snapshot(journal)
        assert _same(self.history.snapshots[-1], found, set()), "a kill lost something"
        self.history.snapshots[-1] = found

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.history.snapshots.append(snapshot(self.journal))

    def step(self) -> None:
        actions = [self.create, self.write, self.write, self.write, self.truncate, self.rename]
        actions += [self.unlink, self.freeze, self.release, self.sync, self.begin_sync]
        actions += [self.finish_sync, self.checkpoint, self.leave_open, self.drop_open]
        actions += [self.date, self.make_ready]
        self.rng.choice(actions)()

    def create(self) -> None:
        key = self._key()
        old = self.journal.ledger.changes.get(key)
        base = Base(key, "v", 5000) if self.rng.random() < 0.3 else None
        content = self.journal.new_content(base, base.size if base else 0, self._time())
        drop = (old.content,) if old and old.content else ()
        change = self._change(key, content=content.id)
        self.journal.commit(Rows(changes=(change,), contents=(content,), drop=drop))

    def make_ready(self) -> None:
        change = self._pick()
        if change is not None:
            for _ in range(self.rng.choice((1, 2))):
                self.journal.make_ready(change.content)

    def write(self) -> None:
        change = self._pick()
        if change is None:
            return
        rng = self.rng
        offset = rng.choice((0, 512, 4096, rng.randrange(9000)))
        data = bytes([rng.randrange(1, 256)]) * rng.choice((1, 100, 512, 4096, 3000))
        data = data[:-1] + bytes([rng.randrange(1, 256)])
        top = self.journal.ledger.contents[change.content].top
        key = (change.content, top.number)
        # As the step that it will be: noted first, it may be half done.
        noted = Written(self.history.step + 1, offset, data)
        self.history.writes.setdefault(key, []).append(noted)
        self.journal.write(change.content, offset, data, self._time())

    def truncate(self) -> None:
        change = self._pick()
        if change is None:
            return
        content = self.journal.ledger.contents[change.content].copy()
        content.top.truncate(self.rng.randrange(9000))
        content.mtime_ns = self._time()
        self.journal.commit(Rows(contents=(content,)))

    def date(self) -> None:
        change = self._pick()
        if change is not None:
            far = self.rng.choice((0, 0, 2**70))  # a time that fits no record of its own
            self.journal.set_mtime(change.content, self._time() + far)

    def rename(self) -> None:
        change = self._pick()
        key = self._key()
        if change is None or change.key == key:
            return
        old = self.journal.ledger.changes.get(key)
        drop = (old.content,) if old and old.content else ()
        moved = self._change(key, content=change.content, state=change.state)
        gone = self._change(change.key, kind=ChangeKind.GONE_FILE)
        self.journal.commit(Rows(changes=(moved, gone), drop=drop))

    def unlink(self) -> None:
        change = self._pick()
        if change is not None:
            gone = self._change(change.key, kind=ChangeKind.GONE_FILE)
            self.journal.commit(Rows(changes=(gone,), drop=(change.content,)))

    def leave_open(self) -> None:
        """Unlinks a file that somebody has open."""
        change = self._pick()
        if change is not None:
            self.journal.commit(Rows(forget=(change.key,)))

    def drop_open(self) -> None:
        ledger = self.journal.ledger
        nobody = [id_ for id_ in ledger.contents if id_ not in ledger.owner]
        if nobody:
            self.journal.commit(Rows(drop=(nobody[0],)), reserve=True)

    def freeze(self) -> None:
        change = self._pick()
        if change is not None:
            self.frozen[change.content] = self.journal.freeze(change.content)

    def release(self) -> None:
        change = self._pick()
        if change is None or change.content not in self.frozen:
            return
        depth = self.frozen.pop(change.content)
        content = self.journal.ledger.contents[change.content]
        size = content.layers[depth].floor_end
        drop = self.journal.rest_adds_nothing(content.id, depth)
        sent = self._change(change.key, content=0 if drop else content.id)
        self.journal.release_frozen(content.id, depth, Base(change.key, "v", size), (sent,))

    def sync(self) -> None:
        change = self._pick()
        ids = [change.content] if change and self.rng.random() < 0.7 else None
        step, mark = self.history.step, self.journal.begin_sync(ids)
        self._make_durable(step, mark, ids)
        self.journal.end_sync(mark)

    def begin_sync(self) -> None:
        if len(self.marks) < 2:
            self.marks.append((self.history.step, self.journal.begin_sync(None)))

    def finish_sync(self) -> None:
        if self.marks:
            step, mark = self.marks.pop(0)
            self._make_durable(step, mark, None)
            self.journal.end_sync(mark)

    def _make_durable(self, step: int, mark: SyncMark, ids: list[int] | None) -> None:
        self.journal.make_durable(mark)
        self.history.durable_step = max(step, self.history.durable_step)
        if ids is None:
            self.history.synced_all = max(step, self.history.synced_all)
        else:
            self.history.synced |= dict.fromkeys(ids, step)

    def checkpoint(self) -> None:
        ends = self.rng.random() < 0.9
        step, found = self.history.step, self.journal.begin_checkpoint()
        if found is not None:
            self.journal.write_checkpoint(found)
            self.history.durable_step = max(step, self.history.durable_step)
            self.history.synced_all = max(step, self.history.synced_all)
            if ends:
                self.journal.end_checkpoint(found)

    def _pick(self) -> Change | None:
        """A file that has a content which can be used."""
        ledger = self.journal.ledger
        found = [change for change in ledger.changes.values() if change.content in ledger.contents]
        return self.rng.choice(found) if found else None

    def _key(self) -> str:
        return f"dir/{self.rng.randrange(_NAMES)}"

    def _time(self) -> int:
        self.clock += 1
        return self.clock

    def _change(self, key: str, **fields: Any) -> Change:
        sequence = self.journal.next_sequence()
        self.history.highest_sequence = sequence
        name = key.encode()
        made = Change(key, "dir/", name, 10 + int(key[-1]), ChangeKind.FILE, sequence=sequence)
        return replace(made, changed_ns=self._time(), **fields)


def check(journal: Journal, history: History) -> str:
    """That a journal, opened after a crash, has a state that it had, and the bytes of that."""
    found = snapshot(journal)
    torn = {
        key
        for key, change in found[0].items()
        if change.state is ChangeState.FAILED and change.reason == TORN_REASON
    }
    assert torn.issuperset(journal.recovery.torn)
    steps = range(len(history.snapshots) - 1, history.durable_step - 1, -1)
    step = next((at for at in steps if _same(history.snapshots[at], found, torn)), None)
    assert step is not None, f"no state after step {history.durable_step}: {found}"
    assert set(journal.ledger.contents) == set(found[1]), "a content that nobody has"
    for change in found[0].values():
        content = journal.ledger.content_of(change)
        if change.content:
            assert content is not None, f"{change} has no content"
            _check_bytes(journal, history, step, content)
            was_failed = history.snapshots[step][0][change.key].state is ChangeState.FAILED
            assert was_failed or (change.key in torn) == journal.is_torn(content.id)
    known = {
        (id_, layer[0])
        for _, contents in history.snapshots[: history.durable_step + 1]
        for id_, (_, layers, *_) in contents.items()
        for layer in layers
    }
    for path in journal.recovery.quarantined:
        if path.name.startswith(SPARE):
            continue  # a new file whose name and whose first page were lost
        key = parse_data_name(path.name)
        assert key is not None, path
        assert key not in known, f"{path} is of a layer that was dropped"
    assert journal.next_sequence() > history.highest_sequence
    return f"{step} of {history.step}"


def _same(expected: Snapshot, found: Snapshot, torn: set[str]) -> bool:
    if expected[0].keys() != found[0].keys() or expected[1] != found[1]:
        return False
    for key, change in found[0].items():
        # What was torn and then cut off or written again is whole, and is sent.
        is_whole = expected[0][key].reason == TORN_REASON and change.state is ChangeState.PENDING
        if key in torn or is_whole:
            change = replace(change, state=expected[0][key].state, reason=expected[0][key].reason)
        if change != expected[0][key]:
            return False
    return True


def _check_bytes(journal: Journal, history: History, step: int, content: Content) -> None:
    for layer in content.layers:
        key = (content.id, layer.number)
        data = layer_bytes(journal, content, layer.number)
        for at in (at for extent in layer.extents for at in range(*extent)):
            values, must_be_there = history.allowed(key, step, at)
            if data[at] is None:
                assert not must_be_there, f"{key} was synced and is torn at {at}"
            else:
                assert data[at] in values, (key, at, data[at], values)


def layer_bytes(journal: Journal, content: Content, number: int) -> list[int | None]:
    """What is in a data file; None where it is torn or nothing is known."""
    layer = next(layer for layer in content.layers if layer.number == number)
    data: list[int | None] = [None] * layer.extents.end
    for start, end in layer.extents:
        try:
            data[start:end] = journal.read(content.id, number, start, end)
        except OSError:
            for at in range(start, end):
                with suppress(OSError):
                    data[at] = journal.read(content.id, number, at, at + 1)[0]
    return data
