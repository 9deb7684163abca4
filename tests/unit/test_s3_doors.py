"""`oss://` and `swift://`: where they go, in which region, and with whose keys."""

from pathlib import Path
from types import MappingProxyType

import pytest

from mountd.config import Settings
from mountd.config.source import parse_source
from mountd.errors import CredentialsError, UsageError
from mountd.remotes.base import Upload
from mountd.remotes.registry import open_store
from mountd.remotes.s3_doors import oss_settings
from tests.fakes.body import BytesBody
from tests.servers.s3.launch import S3Server

KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}


def settings(endpoint: str | None = None, region: str | None = None, **given: str) -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        endpoint=endpoint,
        region=region,
        credentials=MappingProxyType(given),
    )


@pytest.mark.parametrize(
    ("endpoint", "region", "wanted"),
    [
        (None, "cn-hangzhou", ("https://s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou")),
        (None, "oss-cn-hangzhou", ("https://s3.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou")),
        (
            "https://oss-eu-central-1.aliyuncs.com",
            None,
            ("https://s3.oss-eu-central-1.aliyuncs.com", "eu-central-1"),
        ),
        (
            "oss-cn-shanghai-internal.aliyuncs.com",
            None,
            ("https://s3.oss-cn-shanghai-internal.aliyuncs.com", "cn-shanghai"),
        ),
        ("https://data.example.com", "cn-hangzhou", ("https://data.example.com", "cn-hangzhou")),
    ],
)
def test_oss_goes_to_the_s3_api_of_its_region(
    endpoint: str | None, region: str | None, wanted: tuple[str, str]
) -> None:
    found = oss_settings(settings(endpoint, region), KEYS)
    assert (found.endpoint, found.region) == wanted
    assert found.credentials["addressing_style"] == "virtual"


def test_oss_without_a_place_says_what_is_missing() -> None:
    with pytest.raises(UsageError, match="region=cn-hangzhou"):
        oss_settings(settings(), KEYS)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (KEYS, ("id", "secret", None)),
        (KEYS | {"ALIBABA_CLOUD_SECURITY_TOKEN": "t"}, ("id", "secret", "t")),
        ({"OSS_ACCESS_KEY_ID": "a", "OSS_ACCESS_KEY_SECRET": "b"}, ("a", "b", None)),
    ],
)
def test_oss_takes_the_keys_that_aliyuns_tools_take(
    environment: dict[str, str], wanted: tuple[str, str, str | None]
) -> None:
    given = oss_settings(settings(region="cn-hangzhou"), environment).credentials
    names = ("access_key_id", "secret_access_key", "session_token")
    assert tuple(given.get(name) for name in names) == wanted
    ours = settings(region="cn-hangzhou", access_key_id="x", secret_access_key="y")
    assert oss_settings(ours, environment).credentials["access_key_id"] == "x"


@pytest.mark.parametrize("source", ["oss://b", "swift://b"])
def test_keys_of_another_provider_are_never_sent_there(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*KEYS, "OSS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "amazon's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "amazon's")
    with pytest.raises(CredentialsError):
        open_store(parse_source(source), settings("https://127.0.0.1:1", "x"))


def test_swift_needs_an_endpoint() -> None:
    with pytest.raises(UsageError, match="s3api"):
        open_store(parse_source("swift://b"), settings())


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["oss", "swift"])
def test_both_read_write_and_list(s3_server: S3Server, scheme: str) -> None:
    s3_server.make_bucket("bucket")
    given = {
        "access_key_id": s3_server.access_key,
        "secret_access_key": s3_server.secret_key,
        "addressing_style": "path",  # 127.0.0.1 has no bucket before it
    }
    source = parse_source(f"{scheme}://bucket/prefix")
    store = open_store(source, settings(s3_server.endpoint, "us-east-1", **given))
    made = store.put("dir/a", BytesBody(b"data"), "", Upload())
    assert [entry.name for page in store.list("dir/") for entry in page] == ["a"]
    assert bytes(store.read("dir/a", 0, 4, made.version)) == b"data"
    store.close()
