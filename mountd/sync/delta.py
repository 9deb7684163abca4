"""Sends a file by what differs from its base, where the remote can do that and it pays."""

from typing import Final

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.base import RemoteStore, Upload
from mountd.sync.body import StagedBody
from mountd.types import Entry

MIN_BYTES: Final = 16 << 20  # smaller files go whole, in one request


def put_body(store: RemoteStore, key: str, body: StagedBody, expect: str, upload: Upload) -> Entry:
    """`put`, or `put_delta` which does the same with less. Blocks; raises as they do. `body.gone`
    tells, as always, whether it was the base that was missing."""
    base, same, able = body.base, body.same, store.capabilities
    # Without upload ids a lost answer would have to be told by a checksum, which needs all bytes.
    may = able.put_delta and able.keeps_attributes and body.size >= MIN_BYTES
    if not may or base is None or 2 * sum(end - start for start, end in same) <= body.size:
        return store.put(key, body, expect, upload)
    try:
        return store.put_delta(key, body, expect, upload, base.key, base.version, same)
    except Unsupported:
        return store.put(key, body, expect, upload)
    except (NotFound, VersionChanged):
        start, _ = same[0]
        body.read(start, start + 1)  # raises the same if it is the base that is gone
        raise
