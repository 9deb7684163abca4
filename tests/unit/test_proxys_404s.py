"""A proxy's 404, and its server back a moment later: nothing was deleted, and nothing goes over
what is there. On the wire, because what tells them apart is headers and bodies."""

from collections.abc import Sequence

import pytest

from mountd.errors import ContainerMissing, NotFound, Unreachable
from mountd.remotes.gcs_credentials import GcsAccess
from mountd.remotes.gcs_rest import GcsRest
from mountd.remotes.s3_rest import S3Place, S3Rest
from tests.servers.raw_http import Step, answer, raw_http

PAGE = answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
HEAD_PAGE = answer(404, b"", {"Content-Type": "text/plain"})
CDN_PAGE = answer(404, b"", {"x-amz-cf-id": "1", "x-amz-cf-pop": "FRA"})
S3_HEAD = answer(404, b"", {"x-amz-request-id": "1"})
NO_SUCH_KEY = answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"x-amz-request-id": "2"})
THERE = answer(206, b"x", {"Content-Range": "bytes 0-0/5", "ETag": '"1"'})


def is_absent(*steps: Step) -> tuple[bool, Sequence[str]]:
    with raw_http(*steps) as server:
        place = S3Place(f"http://{server.authority}", "/b", "b", "us-east-1")
        rest = S3Rest(place, lambda: None, 5.0)
        try:
            return rest.is_absent("k"), [request.method for request in server.requests]
        finally:
            rest.close()


def test_what_s3_itself_says_is_missing_is_one_request() -> None:
    assert is_absent(S3_HEAD) == (True, ["HEAD"])


@pytest.mark.parametrize("page", [HEAD_PAGE, CDN_PAGE])
def test_a_servers_404_without_s3s_headers_is_looked_into(page: Step) -> None:
    assert is_absent(page, NO_SUCH_KEY) == (True, ["HEAD", "GET"])


@pytest.mark.parametrize("then", [PAGE, THERE], ids=["and again", "and then it is there"])
def test_a_proxys_404_is_no_place_for_a_new_object(then: Step) -> None:
    with pytest.raises(Unreachable):
        is_absent(HEAD_PAGE, then)


JSON = {"Content-Type": "application/json"}
BUCKET = answer(200, b'{"kind": "storage#objects"}', JSON)
OBJECT = answer(200, b'{"name": "k"}', JSON)
NO_BUCKET = answer(404, b'{"error": {"code": 404, "errors": [{"reason": "notFound"}]}}', JSON)
GCS_SAYS = NO_BUCKET
LINE = answer(404, b"No such object: b/k", {"Content-Type": "text/html"})
EMPTY = answer(404, b"")
DENIED = answer(403, b"{}", JSON)


def read(*steps: Step, is_google: bool) -> tuple[type[Exception], int]:
    with raw_http(*steps) as server:
        access = GcsAccess(f"http://{server.authority}", None, "", is_google)
        rest = GcsRest(access, "b", 5.0)
        try:
            rest.read_range("k", 0, 1, "1")
        except Exception as error:
            return type(error), len(server.requests)
        finally:
            rest.close()
    raise AssertionError("nothing was there to be read")


@pytest.mark.parametrize("said", [GCS_SAYS, LINE], ids=["a reason", "a line"])
@pytest.mark.parametrize("is_google", [True, False])
def test_what_gcs_says_is_missing_is_missing(said: Step, is_google: bool) -> None:
    assert read(said, BUCKET, is_google=is_google) == (NotFound, 2)
    assert read(said, NO_BUCKET, is_google=is_google) == (ContainerMissing, 2)
    assert read(said, DENIED, is_google=is_google) == (NotFound, 2)


@pytest.mark.parametrize("page", [PAGE, EMPTY], ids=["page", "empty"])
def test_a_404_that_google_did_not_say_is_unreachable(page: Step) -> None:
    assert read(page, is_google=True) == (Unreachable, 1)


def test_an_emulator_has_to_say_it_twice() -> None:
    assert read(EMPTY, BUCKET, EMPTY, is_google=False) == (NotFound, 3)
    assert read(PAGE, BUCKET, OBJECT, is_google=False) == (Unreachable, 3)
    assert read(PAGE, DENIED, OBJECT, is_google=False) == (Unreachable, 3)
