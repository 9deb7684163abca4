"""Which bodies a signature may leave out."""

import pytest

from mountd.remotes.s3_rest import S3Place, S3Rest
from mountd.remotes.tls import VERIFIED, Tls


def rest(origin: str, tls: Tls = VERIFIED) -> S3Rest:
    return S3Rest(S3Place(origin, "/b", "b", "us-east-1"), lambda: None, 1.0, tls)


def test_tls_that_is_not_verified_protects_nothing() -> None:
    assert not rest("https://s3.example.com", Tls(is_verified=False)).may_leave_unsigned


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://s3.example.com", True),
        ("http://127.0.0.1:9000", True),
        ("http://localhost:9000", True),
        ("http://[::1]:9000", True),
        ("http://10.0.0.1:9000", False),
        ("http://localhost.example.com", False),
        ("http://minio:9000", False),
    ],
)
def test_only_what_nobody_on_the_way_can_change_is_left_unsigned(
    monkeypatch: pytest.MonkeyPatch, origin: str, may: bool
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert rest(origin).may_leave_unsigned is may


def test_what_goes_through_a_proxy_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example.com:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert not rest("http://127.0.0.1:9000").may_leave_unsigned
