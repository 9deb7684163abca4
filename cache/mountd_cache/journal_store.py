"""The journal's database: what the operation log said up to some record, in SQLite.

One connection, one thread at a time. The log is the truth since then; see docs/format.md for the
tables. A name or a key that is no Unicode is a BLOB instead of a TEXT; an integer of more than 64
bits (times beyond the year 2262) is a TEXT.
"""

import errno
import json
import sqlite3
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from mountd_cache.changes import Base, Change, ChangeKind, ChangeState, Content, Layer
from mountd_cache.durable_io import FileIO, make_private_file
from mountd_cache.extent_map import ExtentMap
from mountd_cache.staging import FileKey

VERSION: Final = 1
FILE_NAME: Final = "journal.db"
_TABLES: Final = """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE changes (
        key PRIMARY KEY, directory, name BLOB, number, kind INTEGER, expect,
        base_key, base_version, base_size, content INTEGER, size, mtime_ns, sequence,
        since_ns, changed_ns, state INTEGER, reason, conflict, attributes TEXT
    ) WITHOUT ROWID;
    CREATE TABLE contents (
        id INTEGER PRIMARY KEY, base_key, base_version, base_size, mtime_ns, changed_ns
    );
    CREATE TABLE layers (
        content INTEGER, number INTEGER, size, floor_end, extents BLOB, torn BLOB,
        PRIMARY KEY (content, number)
    ) WITHOUT ROWID;
    CREATE TABLE unlinked (content INTEGER, number INTEGER);
"""
_UNREADABLE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class JournalUnreadable(Exception):
    """The database is damaged."""


class JournalTooNew(Exception):
    """The journal was written by a later mountd; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Meta:
    """`last_lsn`: the record of the log up to which the rest counts. `epoch`: see log_format."""

    id: str
    last_lsn: int
    epoch: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Update:
    """What a transaction changes. `unlinked` takes the place of what was there."""

    meta: Meta
    changes: Iterable[Change] = ()
    forget: Iterable[str] = ()
    contents: Iterable[Content] = ()
    drop: Iterable[int] = ()
    unlinked: Iterable[FileKey] = ()
    torn: Mapping[FileKey, ExtentMap] = field(default_factory=dict)


class JournalStore:
    """A context manager would hide that `close` can fail: call it."""

    def __init__(self, folder: Path, *, disk: FileIO) -> None:
        """Opens the database, makes it where there is none. Raises OSError, JournalUnreadable,
        JournalTooNew."""
        self._disk = disk
        path = folder / FILE_NAME
        with _errors_of(path):
            make_private_file(path)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(folder)
            except BaseException:
                self._db.close()
                raise

    def meta(self) -> Meta | None:
        """None in a database that was just made. Raises OSError, JournalUnreadable."""
        found: dict[str, Any] = {}
        try:
            with _errors_of(Path(FILE_NAME)):
                found.update(self._db.execute("SELECT * FROM meta WHERE name != 'version'"))
            if not found:
                return None
            numbers = int(found["last_lsn"]), int(found["epoch"])
            return Meta(str(found["id"]), *numbers, str(found["boot_id"]))
        except (LookupError, TypeError, ValueError) as error:
            raise JournalUnreadable(f"the table meta: {found}") from error

    def changes(self, bad: list[str]) -> Iterator[Change]:
        """All of them; what can't be understood is added to `bad`. As `meta`."""
        done, queries = 0, [_NOT_PLAIN]
        with _errors_of(Path(FILE_NAME)):
            try:
                for row in self._db.execute(_PLAIN):
                    fields: list[Any] = list(row)
                    fields[4], fields[13] = _KINDS[row[4]], _STATES[row[13]]
                    done += 1
                    yield Change(*fields)
            except UnicodeDecodeError:  # SQLite takes any bytes for a text
                queries.append(f"{_PLAIN_AS_STORED} LIMIT -1 OFFSET {done}")
            for row in chain.from_iterable(map(self._any_rows, queries)):
                try:
                    yield _change_from_row(row)
                except (ValueError, TypeError, LookupError, struct.error) as error:
                    bad.append(f"a row of the table changes: {row!r}: {error}")

    def contents(self, bad: list[str], torn: dict[FileKey, ExtentMap]) -> Collection[Content]:
        """As `changes`. `torn` gets what `Update.torn` had of them."""
        found: dict[int, Content] = {}
        damaged: set[int] = set()
        with _errors_of(Path(FILE_NAME)):
            for row in self._any_rows(_CONTENTS):
                id_, *base, mtime_ns, changed_ns, number, size, floor_end, extents, lost = row
                try:
                    layer = Layer(number, int(size), int(floor_end), _extents(extents))
                    if lost:
                        torn[id_, number] = _extents(lost)
                    if id_ in found:
                        found[id_].layers.append(layer)
                    else:
                        times = int(mtime_ns), int(changed_ns)
                        found[id_] = Content(id_, _base(*base), [layer], *times)
                except (ValueError, TypeError, LookupError, struct.error) as error:
                    damaged.add(id_)
                    bad.append(f"a row of the tables contents and layers: {row!r}: {error}")
        for id_ in damaged:
            found.pop(id_, None)
        for key in [key for key in torn if key[0] in damaged]:
            del torn[key]
        return found.values()

    def unlinked(self, bad: list[str]) -> list[FileKey]:
        """Data files that nobody needs and that may still be there. As `changes`."""
        found: list[FileKey] = []
        with _errors_of(Path(FILE_NAME)):
            for row in self._any_rows("SELECT content, number FROM unlinked"):
                if all(type(number) is int for number in row):
                    found.append((row[0], row[1]))
                else:
                    bad.append(f"a row of the table unlinked: {row!r}")
        return found

    def _any_rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Its rows, with bytes for a text that is not UTF-8."""
        self._db.text_factory = _text_or_bytes
        try:
            yield from self._db.execute(query)
        finally:
            self._db.text_factory = _to_text

    def save(self, update: Update) -> None:
        """One transaction, on the disk when this returns. Raises OSError: nothing changed."""
        with _errors_of(Path(FILE_NAME)):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write(update)
                self._disk.commit(self._db)
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Folds SQLite's own log into the database."""
        self._db.close()

    def _prepare(self, folder: Path) -> None:
        # EXCLUSIVE: no shared memory, which some file systems don't have; the folder is locked.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.text_factory = _to_text
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            try:
                found = self._db.execute("SELECT value FROM meta WHERE name='version'").fetchone()
                version = int(found[0])
            except (TypeError, ValueError) as error:
                raise JournalUnreadable(f"the version in the table meta: {error}") from error
            if version > VERSION:
                raise JournalTooNew(
                    f"{folder} was written by a later mountd (format {version}, this one knows "
                    f"{VERSION}): use that one"
                )
            return
        statements = [statement for statement in _TABLES.split(";") if statement.strip()]
        self._db.execute("BEGIN IMMEDIATE")
        for statement in statements:
            self._db.execute(statement)
        self._db.execute("INSERT INTO meta VALUES ('version', ?)", (VERSION,))
        self._disk.commit(self._db)
        self._disk.fsync_dir(folder)

    def _write(self, update: Update) -> None:
        db, meta = self._db, update.meta
        values = {name: getattr(meta, name) for name in ("id", "last_lsn", "epoch", "boot_id")}
        db.executemany("REPLACE INTO meta VALUES (?, ?)", values.items())
        forget = ((_text(key),) for key in update.forget)
        db.executemany("DELETE FROM changes WHERE key = ?", forget)
        marks = ",".join("?" * 19)
        rows = (_change_to_row(change) for change in update.changes)
        db.executemany(f"REPLACE INTO changes VALUES ({marks})", rows)
        contents = list(update.contents)
        replaced = [(id_,) for id_ in update.drop] + [(content.id,) for content in contents]
        db.executemany("DELETE FROM layers WHERE content = ?", replaced)
        db.executemany("DELETE FROM contents WHERE id = ?", replaced)
        contents_rows = (_content_to_row(content) for content in contents)
        db.executemany("INSERT INTO contents VALUES (?,?,?,?,?,?)", contents_rows)
        layers = (
            _layer_to_row((content.id, layer.number), layer, update.torn)
            for content in contents
            for layer in content.layers
        )
        db.executemany("INSERT INTO layers VALUES (?,?,?,?,?,?)", layers)
        db.execute("DELETE FROM unlinked")
        db.executemany("INSERT INTO unlinked VALUES (?,?)", update.unlinked)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """What goes wrong in SQLite as OSError, or JournalUnreadable where the file is damaged."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _UNREADABLE:
            raise JournalUnreadable(str(error)) from error
        number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
        raise OSError(number, f"the journal's database: {error}", str(path)) from error


_to_text: Final = partial(str, encoding="utf-8", errors="surrogatepass")


def _text_or_bytes(stored: bytes) -> str | bytes:
    try:
        return _to_text(stored)
    except UnicodeDecodeError:
        return stored


def _text(text: str) -> str | bytes:
    """As SQLite can take it."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _str(value: Any) -> str:
    """The opposite of `_text`."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    return value


def _integer(number: int) -> int | str:
    return number if -(2**63) <= number < 2**63 else str(number)


def _base(key: Any, version: Any, size: Any) -> Base | None:
    return None if key is None else Base(_str(key), _str(version), int(size))


def _base_to_row(base: Base | None) -> tuple[Any, ...]:
    if base is None:
        return None, None, None
    return _text(base.key), _text(base.version), _integer(base.size)


def _change_to_row(change: Change) -> tuple[Any, ...]:
    return (
        _text(change.key),
        _text(change.directory),
        change.name,
        _integer(change.number),
        int(change.kind),
        _text(change.expect),
        *_base_to_row(change.base),
        change.content,
        _integer(change.size),
        _integer(change.mtime_ns),
        _integer(change.sequence),
        _integer(change.since_ns),
        _integer(change.changed_ns),
        int(change.state),
        _text(change.reason) or None,
        _text(change.conflict) or None,
        json.dumps(dict(change.attributes)) if change.attributes else None,
    )


def _change_from_row(row: tuple[Any, ...]) -> Change:
    fields: list[Any] = list(row)
    fields[4], fields[15] = _KINDS[row[4]], _STATES[row[15]]
    for at in (0, 1, 5):
        fields[at] = _str(row[at])
    fields[2] = bytes(row[2])
    for at in (3, *range(9, 15)):
        fields[at] = int(row[at])
    for at in (16, 17):
        fields[at] = "" if row[at] is None else _str(row[at])
    if row[18] is None:
        del fields[18]
    else:
        fields[18] = _attributes(row[18])
    fields[6:9] = (_base(*row[6:9]),)
    return Change(*fields)


def _attributes(text: str) -> Mapping[str, str]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("attributes that are nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"no attributes: {text!r}")
    return found


def _content_to_row(content: Content) -> tuple[Any, ...]:
    times = _integer(content.mtime_ns), _integer(content.changed_ns)
    return (content.id, *_base_to_row(content.base), *times)


def _layer_to_row(key: FileKey, layer: Layer, torn: Mapping[FileKey, ExtentMap]) -> tuple[Any, ...]:
    sizes = _integer(layer.size), _integer(layer.floor_end)
    lost = _edges(torn[key]) if key in torn else None
    return (*key, *sizes, _edges(layer.extents), lost)


def _edges(extents: ExtentMap) -> bytes:
    edges = extents.edges()
    return struct.pack(f"<{len(edges)}Q", *edges)


def _extents(data: bytes) -> ExtentMap:
    if len(data) == _RANGE.size:  # nearly every file that was written here
        return ExtentMap.from_edges(_RANGE.unpack(data))
    return ExtentMap.from_edges(struct.unpack(f"<{len(data) // 8}Q", data))


_RANGE: Final = struct.Struct("<QQ")
_KINDS: Final = {int(kind): kind for kind in ChangeKind}
_STATES: Final = {int(state): state for state in ChangeState}
# Nearly all rows need no conversion: those without a base that did not fail. SQLite tells them
# apart; 100,000 take 0.2 s less.
_TEXTS: Final = ("key", "directory", "expect")
_NUMBERS: Final = ("number", "content", "size", "mtime_ns", "sequence", "since_ns", "changed_ns")
_IS_PLAIN: Final = " AND ".join(
    [f"typeof({name}) = 'text'" for name in _TEXTS]
    + [f"typeof({name}) = 'integer'" for name in _NUMBERS]
    + [f"{name} IS NULL" for name in ("base_key", "reason", "conflict", "attributes")]
    + ["typeof(name) = 'blob'", f"kind IN {(*_KINDS,)}", f"state IN {(*_STATES,)}"]
)
_PLAIN: Final = f"""
    SELECT key, directory, name, number, kind, expect, NULL, content, size, mtime_ns, sequence,
    since_ns, changed_ns, state FROM changes WHERE {_IS_PLAIN}
"""
_PLAIN_AS_STORED: Final = f"SELECT * FROM changes WHERE {_IS_PLAIN}"
_NOT_PLAIN: Final = f"SELECT * FROM changes WHERE ({_IS_PLAIN}) IS NOT 1"
_CONTENTS: Final = """
    SELECT contents.*, number, size, floor_end, extents, torn
    FROM contents LEFT JOIN layers ON content = id ORDER BY id, number
"""
