"""Reads from GCS through obstore: what goes over the wire, and what failures are."""

from collections.abc import Iterator

import pytest

from mountd.errors import Throttled, Unreachable
from mountd.remotes.base import RemoteStore
from mountd.remotes.gcs import store_of
from mountd.remotes.gcs_credentials import BearerToken, GcsAccess
from tests.contract.targets_gcs import gcs_source
from tests.contract.test_reading import read
from tests.servers.gcs_fake import TOKEN, running_gcs_fake
from tests.servers.gcs_fake_state import GcsFake

pytestmark = pytest.mark.server


@pytest.fixture
def fake() -> Iterator[GcsFake]:
    with running_gcs_fake() as fake:
        yield fake


@pytest.fixture
def store(fake: GcsFake) -> Iterator[RemoteStore]:
    access = GcsAccess(fake.endpoint, BearerToken(TOKEN), "", has_xml_api=True)
    store = store_of(access, gcs_source(fake.bucket, "d"), 5.0)
    yield store
    store.close()


def test_a_versioned_read_names_the_generation_and_is_one_request(
    fake: GcsFake, store: RemoteStore
) -> None:
    fake.put("d/data", b"0123456789")
    version = store.stat("data").version
    assert read(store, "data", 2, 5, version) == b"234"
    # obstore writes the key's slashes so; GCS takes both.
    assert fake.xml_gets == [f"/contract/d%2Fdata?generation={version}"]


@pytest.mark.parametrize(("status", "expected"), [(503, Throttled), (500, Unreachable)])
def test_failures_are_told_apart_by_status(
    fake: GcsFake, store: RemoteStore, status: int, expected: type[Exception]
) -> None:
    fake.put("d/data", b"0123456789")
    fake.fail_with = status
    with pytest.raises(expected) as caught:
        store.read("data", 0, 1, "")
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after_s == 3.0
