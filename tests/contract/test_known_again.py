"""What was sent without an answer is known again by its upload id, also where no time was kept."""

import hashlib

import pytest

from mountd.remotes.base import ABSENT, Upload
from mountd.sync.attempts import Attempt, is_same
from mountd.sync.upload_id import UploadId
from tests.contract.conftest import OpenStore
from tests.contract.targets import Target
from tests.contract.writing import MTIME_NS, write

# The second is of reproducible builds and Nix: a Nextcloud does not take it.
TIMES = [MTIME_NS, 1_000_000_000]


@pytest.mark.parametrize("mtime_ns", TIMES)
def test_an_upload_is_known_again_whatever_its_time(
    target: Target, open_store: OpenStore, mtime_ns: int
) -> None:
    store = open_store()
    id_ = UploadId.of("journal", "file", MTIME_NS, 1, 1, 1, size=1, mtime_ns=mtime_ns)
    write(store, "file", b"1", ABSENT, Upload(str(id_), mtime_ns))
    attempt = Attempt(id_, 1, lambda: hashlib.md5(b"1").hexdigest())
    assert is_same(store, "file", store.identify("file"), attempt)
