"""The Nextcloud-shaped server: who is let in, what is offered, and faults on order."""

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.servers.nextcloud.launch import ControlError, NextcloudServer
from tests.servers.raw_nextcloud import RawDav, parse_multistatus, raw_dav

pytestmark = pytest.mark.server

CAPABILITIES = "/ocs/v2.php/cloud/capabilities?format=json"
OCS = {"OCS-APIRequest": "true"}


@pytest.fixture
def dav(nextcloud_server: NextcloudServer) -> Iterator[RawDav]:
    with raw_dav(nextcloud_server) as client:
        yield client


def test_a_wrong_password_is_401_and_counted_and_none_is_not(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    right = dav.authorization
    dav.authorization = ""
    refused = dav.files("PROPFIND", "")
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert nextcloud_server.auth_failures() == 0
    for wrong in ("Basic dGVzdGVyOng=", "Basic ???", "Bearer nobody"):
        dav.authorization = wrong
        assert dav.files("PROPFIND", "").status == 401
    assert nextcloud_server.auth_failures() == 3
    nextcloud_server.allow_bearer("token")
    dav.authorization = "Bearer token"
    assert dav.files("PROPFIND", "").status == 207
    dav.authorization = right
    assert dav.files("PROPFIND", "").status == 207


def test_the_files_of_somebody_else_are_not_there(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.add_account("bob", "secret")
    nextcloud_server.put("f", b"1", user="bob")
    assert dav.raw("GET", "/remote.php/dav/files/bob/f").status == 404
    assert dav.raw("GET", "/remote.php/webdav/f").status == 404
    seen = dav.raw("PROPFIND", "/remote.php/dav/files/bob/", b"", {"Depth": "1"})
    assert (seen.status, list(parse_multistatus(seen.body))) == (
        207,
        ["/remote.php/dav/files/bob/"],
    )


def test_login_flow_v2_gives_an_app_password_once_it_is_granted(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    dav.authorization = ""
    begun = json.loads(dav.raw("POST", "/index.php/login/v2").body)
    assert begun["login"].startswith(nextcloud_server.url)
    form = urlencode({"token": begun["poll"]["token"]}).encode()
    endpoint = begun["poll"]["endpoint"].removeprefix(nextcloud_server.url)
    assert dav.raw("POST", endpoint, form).status == 404
    granted = nextcloud_server.grant_logins()
    told = json.loads(dav.raw("POST", endpoint, form).body)
    assert told == {
        "server": nextcloud_server.url,
        "loginName": nextcloud_server.user,
        "appPassword": granted,
    }
    assert dav.raw("POST", endpoint, form).status == 404
    dav.authorization = f"Bearer {granted}"
    assert dav.files("PROPFIND", "").status == 207
    nextcloud_server.revoke_logins()
    assert dav.files("PROPFIND", "").status == 401


def test_capabilities_say_what_is_set_up_and_little_without_a_password(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(version="24.0.5.1", bulkupload="")
    told = json.loads(dav.raw("GET", CAPABILITIES, b"", OCS).body)["ocs"]
    assert told["meta"]["statuscode"] == 200
    assert told["data"]["version"]["major"] == 24
    assert told["data"]["capabilities"]["dav"] == {"chunking": "1.0"}
    assert "forbidden_filenames" not in told["data"]["capabilities"]["files"]
    assert dav.raw("GET", CAPABILITIES).status == 412
    dav.authorization = ""
    public = json.loads(dav.raw("GET", CAPABILITIES, b"", OCS).body)["ocs"]["data"]["capabilities"]
    assert "dav" not in public


def test_maintenance_mode_is_503_everywhere_but_in_the_status(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(maintenance=True)
    assert json.loads(dav.raw("GET", "/status.php").body)["maintenance"] is True
    for answer in (
        dav.files("PROPFIND", ""),
        dav.files("PUT", "f", b"1"),
        dav.raw("GET", CAPABILITIES),
    ):
        assert answer.status == 503
    assert nextcloud_server.tree() == []


def test_an_ordered_error_hits_the_nth_request_that_matches(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("a/f", b"1")
    nextcloud_server.faults(
        {"op": "Get", "prefix": "a/", "skip": 1, "times": 1, "status": 503, "retry_after_s": 7}
    )
    assert dav.files("GET", "a/f").status == 200
    refused = dav.files("GET", "a/f")
    assert (refused.status, refused.headers["retry-after"]) == (503, "7")
    assert dav.files("GET", "a/f").status == 200
    assert [entry.status for entry in nextcloud_server.log(op="Get")] == [200, 503, 200]


def test_the_log_has_the_headers_that_matter(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    dav.files("PUT", "a b", b"1", If_None_Match="*")
    [entry] = nextcloud_server.log()
    assert (entry.op, entry.tree, entry.path, entry.status) == ("Put", "files", "a b", 201)
    assert entry.headers == {"if-none-match": "*", "content-length": "1"}
    assert entry.bytes_received == 1


def test_settings_that_do_not_exist_are_refused(nextcloud_server: NextcloudServer) -> None:
    with pytest.raises(ControlError, match="no such setting"):
        nextcloud_server.configure(chunk=1)
    with pytest.raises(ControlError, match="can't be"):
        nextcloud_server.configure(quota_bytes="many")
