"""The scriptable S3 server's knobs: each fault is what it says, and hits what it is meant for."""

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes.stopwatch import fastest_s
from tests.servers.raw_s3 import Answer, RawClient, raw_client
from tests.servers.s3.launch import ControlError, S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = pytest.mark.server

DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def _object(s3_server: S3Server) -> None:
    s3_server.put("b", "k", DATA)


def test_latency_is_added_before_the_first_byte(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.set_knobs(latency_ms=80)

    def get() -> None:
        assert raw.request("GET", "b", "k").body == DATA

    assert 0.08 <= fastest_s(get, 3.0) < 3.0


def test_latency_of_parallel_requests_overlaps(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.set_knobs(latency_ms=500)
    clients = [raw_client(s3_server) for _ in range(8)]

    def all_at_once() -> None:
        with ThreadPoolExecutor(len(clients)) as pool:
            for answer in pool.map(lambda each: each.request("GET", "b", "k"), clients):
                assert answer.body == DATA

    assert fastest_s(all_at_once, 3.5) < 3.5  # One after the other: 4 s.
    for each in clients:
        each.close()


@pytest.mark.parametrize("rate", [10_000_000, 100_000_000])
def test_bandwidth_is_kept_per_connection(s3_server: S3Server, raw: RawClient, rate: int) -> None:
    size = rate // 4
    s3_server.seed("b", keys=["big"], size=size)
    s3_server.set_knobs(bandwidth_bytes_s=rate)

    def get() -> None:
        assert len(raw.request("GET", "b", "big").body) == size

    assert 0.235 <= fastest_s(get, 0.5) < 0.5


def test_an_ordered_error_hits_the_nth_request_that_matches_and_only_it(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.put("b", "other", b"")
    s3_server.faults(
        {"op": "GetObject", "prefix": "k", "skip": 1, "times": 2, "status": 503, "retry_after_s": 7}
    )
    statuses = []
    for key in ("k", "other", "k", "other", "k", "k"):
        answer = raw.request("GET", "b", key)
        statuses.append(answer.status)
        if answer.status == 503:
            assert answer.headers["retry-after"] == "7"
            assert "<Code>SlowDown</Code>" in answer.text
    assert statuses == [200, 200, 503, 200, 503, 200]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (404, "NoSuchBucket"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
    ],
)
def test_every_ordered_status_has_its_code(
    s3_server: S3Server, raw: RawClient, status: int, code: str
) -> None:
    s3_server.faults({"method": "GET", "status": status})
    answer = raw.request("GET", "b", "k")
    assert (answer.status, f"<Code>{code}</Code>" in answer.text) == (status, True)
    assert "retry-after" not in answer.headers
    s3_server.clear_faults()
    assert raw.request("GET", "b", "k").status == 200


def test_a_reset_comes_before_any_byte(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.faults({"key": "^k$", "times": 1, "reset": True})
    with pytest.raises(ConnectionResetError) as caught:
        raw.request("GET", "b", "k")
    # http.client's RemoteDisconnected, for a FIN, is a ConnectionResetError too.
    assert caught.type is ConnectionResetError
    assert raw.request("GET", "b", "k").status == 200
    assert [entry.status for entry in s3_server.log(prefix="k")] == [0, 200]


@pytest.mark.parametrize("with_reset", [False, True])
def test_a_body_is_cut_after_so_many_bytes(
    s3_server: S3Server, raw: RawClient, with_reset: bool
) -> None:
    s3_server.faults({"times": 1, "cut_after_bytes": 1000, "cut_with_reset": with_reset})
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as caught:
        raw.request("GET", "b", "k")
    if isinstance(caught.value, http.client.IncompleteRead):
        assert caught.value.partial == DATA[:1000]
    assert isinstance(caught.value, ConnectionResetError) == with_reset
    assert s3_server.log()[0].bytes_sent == 1000


def test_a_content_length_can_claim_more_than_comes(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.faults({"times": 1, "extra_length": 5})
    with pytest.raises(http.client.IncompleteRead) as caught:
        raw.request("GET", "b", "k", headers={"Range": "bytes=0-9"})
    assert caught.value.partial == DATA[:10]
    assert caught.value.expected == 5


def test_a_content_range_can_be_wrong(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.faults({"wrong_content_range": True})
    answer = raw.request("GET", "b", "k", headers={"Range": "bytes=10-19"})
    assert answer.headers["content-range"] == f"bytes 11-20/{len(DATA)}"
    assert answer.body == DATA[10:20]


def test_a_flipped_byte_is_at_that_offset_of_the_object(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.seed("b", keys=["s"], size=300_000)
    s3_server.set_knobs(flip_at=5000)
    for key, whole in (("k", DATA), ("s", synthetic_bytes("s", 0, 300_000))):
        spoilt = bytearray(whole)
        spoilt[5000] ^= 0xFF
        assert raw.request("GET", "b", key).body == spoilt
        ranged = raw.request("GET", "b", key, headers={"Range": "bytes=4000-5000"})
        assert ranged.body == spoilt[4000:5001]
        past = raw.request("GET", "b", key, headers={"Range": "bytes=5001-6000"})
        assert past.body == whole[5001:6001]


def test_a_range_can_be_ignored_or_answered_200(s3_server: S3Server, raw: RawClient) -> None:
    asked = {"Range": "bytes=10-19"}
    s3_server.set_knobs(ignore_range=True)
    answer = raw.request("GET", "b", "k", headers=asked)
    assert (answer.status, len(answer.body)) == (200, len(DATA))
    s3_server.set_knobs(ignore_range=False, range_as_200=True)
    answer = raw.request("GET", "b", "k", headers=asked)
    assert (answer.status, answer.body) == (200, DATA[10:20])
    assert answer.headers["content-range"] == f"bytes 10-19/{len(DATA)}"


def test_conditions_can_be_ignored(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.set_knobs(ignore_conditionals=True)
    assert raw.request("GET", "b", "k", headers={"If-Match": '"no"'}).status == 200


def test_a_hanging_request_is_never_answered(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.faults({"times": 1, "hang": True})
    raw.http.timeout = 0.2
    with pytest.raises(TimeoutError):
        raw.request("GET", "b", "k")
    assert [entry.status for entry in s3_server.wait_for_requests(1)] == [0]


def test_a_held_request_is_answered_when_it_is_released(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.faults({"op": "GetObject", "times": 1, "hold": True})
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(raw.request("GET", "b", "k")))
    thread.start()
    s3_server.wait_for_requests(1, op="GetObject")
    s3_server.put("b", "k", b"new")
    assert not answers
    assert s3_server.release() == 1
    thread.join(10)
    assert answers[0].body == b"new"


def test_a_held_request_whose_body_is_on_its_way_is_released_too(
    s3_server: S3Server, raw: RawClient
) -> None:
    s3_server.faults({"op": "PutObject", "hold": True})
    headers = raw.sign("PUT", "/b/new", {"Content-Length": str(len(DATA))}, DATA)
    raw.http.putrequest("PUT", "/b/new", skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"127.0.0.1:{raw.port}", **headers}.items():
        raw.http.putheader(name, value)
    raw.http.endheaders(DATA[:100])
    s3_server.wait_for_requests(1, op="PutObject")
    assert s3_server.release() == 1
    raw.http.send(DATA[100:])
    assert raw.http.getresponse().status == 200


def test_a_closed_port_refuses_and_opens_again_on_the_same_number(
    s3_server: S3Server, raw: RawClient
) -> None:
    assert raw.request("GET", "b", "k").status == 200
    s3_server.refuse_connections()
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        raw.request("GET", "b", "k")
    with pytest.raises(ConnectionRefusedError):
        raw.request("GET", "b", "k")
    s3_server.accept_connections()
    assert raw.request("GET", "b", "k").status == 200
    raw.close()
    s3_server.refuse_connections(for_s=0.1)
    deadline_s = time.monotonic() + 60
    while True:
        try:
            assert raw.request("GET", "b", "k").status == 200
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def test_the_log_tells_every_request_once_in_order(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.clear_log()
    raw.request("GET", "b", "k", headers={"Range": "bytes=0-99"})
    raw.request("HEAD", "b", "k")
    raw.request("GET", "b", "no")
    raw.request("GET", "b", query={"list-type": "2", "prefix": "k"})
    told = [(e.method, e.op, e.key, e.range, e.status) for e in s3_server.log()]
    assert told == [
        ("GET", "GetObject", "k", "bytes=0-99", 206),
        ("HEAD", "HeadObject", "k", "", 200),
        ("GET", "GetObject", "no", "", 404),
        ("GET", "ListObjectsV2", "", "", 200),
    ]
    entries = s3_server.log()
    assert [entries[0].bytes_sent, entries[1].bytes_sent] == [100, 0]
    assert len({entry.connection_id for entry in entries}) == 1
    assert entries[3].query == "list-type=2&prefix=k"
    assert entries[0].arrived_s <= entries[0].done_s <= entries[1].arrived_s
    assert [entry.op for entry in s3_server.log(method="HEAD")] == ["HeadObject"]
    s3_server.clear_log()
    assert s3_server.log() == []


def test_an_unknown_knob_or_criterion_is_refused(s3_server: S3Server) -> None:
    with pytest.raises(ControlError, match="latncy"):
        s3_server.set_knobs(latncy_ms=1)
    with pytest.raises(ControlError, match="methd"):
        s3_server.faults({"methd": "GET", "status": 500})


def test_pipelined_requests_are_answered_in_order(s3_server: S3Server, raw: RawClient) -> None:
    s3_server.set_knobs(allow_anonymous=True)
    for key in "xyz":
        s3_server.put("b", key, key.encode())
    raw.http.connect()
    sock = raw.http.sock
    assert sock is not None
    sock.sendall(b"".join(b"GET /b/%c HTTP/1.1\r\nHost: a\r\n\r\n" % each for each in b"xyz"))
    received = b""
    while received.count(b"\r\n\r\n") < 3 or not received.endswith(b"z"):
        data = sock.recv(65536)
        assert data
        received += data
    assert [part[:1] for part in received.split(b"\r\n\r\n")[1:]] == [b"x", b"y", b"z"]


def test_who_sends_a_request_and_the_end_at_once_is_answered_and_let_go(
    s3_server: S3Server,
) -> None:
    s3_server.set_knobs(allow_anonymous=True)
    for _ in range(50):  # Only sometimes do both come in one event.
        with socket.create_connection(("127.0.0.1", s3_server.port), timeout=5) as sock:
            sock.sendall(b"HEAD /b/k HTTP/1.1\r\nHost: a\r\n\r\n")
            sock.shutdown(socket.SHUT_WR)
            received = b""
            while data := sock.recv(65536):
                received += data
            assert received.startswith(b"HTTP/1.1 200 ")


def test_what_is_not_http_is_answered_400_and_closed(s3_server: S3Server, raw: RawClient) -> None:
    raw.http.connect()
    sock = raw.http.sock
    assert sock is not None
    sock.sendall(b"nonsense\r\n\r\n")
    received = b""
    while data := sock.recv(65536):
        received += data
    assert received.startswith(b"HTTP/1.1 400 ")
