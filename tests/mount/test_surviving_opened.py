"""What was opened just before its daemon died: through the kernel."""

import os
import signal
from pathlib import Path

import pytest

from tests.mount.surviving import in_background
from tests.mount.test_surviving import HOLD, ends, python
from tests.mount.test_surviving_ends import with_site

pytestmark = pytest.mark.fuse

# The first daemon's disk takes no listing.
NO_LISTING_ON_DISK = """
import os, sys, threading
if "--foreground" in sys.orig_argv and "MOUNTD_KEPT_FDS" not in os.environ:
    from mountd_cache.metadata_store import MetadataStore
    MetadataStore.write = lambda self, items: threading.Event().wait()
"""


def test_a_file_that_was_opened_just_before_a_kill_is_read_on_although_no_listing_has_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "data" / "d").mkdir(parents=True)
    (tmp_path / "data" / "d" / "file").write_bytes(b"bytes")
    site = with_site(tmp_path, NO_LISTING_ON_DISK)
    with in_background(f"file://{tmp_path / 'data'}", tmp_path, site) as mount:
        holding = python(HOLD.format(str(mount.path / "d" / "file")))
        assert holding.stdout is not None
        holding.stdout.readline()
        os.kill(mount.pid, signal.SIGKILL)
        assert ends(holding) == 0
        assert "is lost" not in mount.log()
