"""Where keys, endpoints and regions of s3://, az:// and gs:// come from, and in which order."""

import json
import re
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from mountd import remotes
from mountd.config import Settings
from mountd.config.credentials import CREDENTIALS
from mountd.config.source import parse_source
from mountd.errors import CredentialsError, Denied, StartError, UsageError
from mountd.remotes.azure_credentials import AzureAccount, azure_account
from mountd.remotes.gcs_credentials import BearerToken, GoogleTokens, gcs_access
from mountd.remotes.registry import open_store
from mountd.remotes.s3_credentials import ChainCredentials, region_of_endpoint, s3_access
from mountd.remotes.s3_rest import S3Keys, S3Place, sign

KEY = "a2V5"


def settings(
    endpoint: str | None = None, region: str | None = None, **credentials: str
) -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        endpoint=endpoint,
        region=region,
        credentials=MappingProxyType(credentials),
    )


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_", "GCE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


# S3


def test_s3_keys_of_the_settings_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token of other keys")
    access = s3_access(settings(access_key_id="mine", secret_access_key="secret"))
    assert access.credentials() == S3Keys("mine", "secret", None)
    assert access.credentials.for_obstore()["token"] is None


def test_s3_keys_of_the_environment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    access = s3_access(settings())
    assert access.credentials() == S3Keys("env", "secret", "token")
    assert access.credentials.for_obstore()["expires_at"] is not None


@pytest.mark.parametrize("profile", ["", "[default]\nregion = eu-west-3\n"])
def test_a_bucket_of_whoever_has_no_endpoint_is_at_amazon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
) -> None:
    (tmp_path / "config").write_text(profile)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    access = s3_access(settings())
    region = "eu-west-3" if profile else "us-east-1"
    place = access.place("lab")
    assert place == S3Place(f"https://lab.s3.{region}.amazonaws.com", "", "lab", region)
    assert "Authorization" in sign("GET", place, "/?list-type=2", {}, access.credentials())


def test_an_s3_profile_gives_keys_region_endpoint_and_style(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile lab]\nregion = eu-west-3\nendpoint_url = https://s3.lab.example\n"
        "aws_access_key_id = fromfile\naws_secret_access_key = secret\n"
        "s3 =\n  addressing_style = virtual\n"
    )
    access = s3_access(settings(profile="lab"))
    assert access.credentials() == S3Keys("fromfile", "secret", None)
    assert access.place("b-b") == S3Place("https://b-b.s3.lab.example", "", "b-b", "eu-west-3")


def test_an_s3_endpoint_of_a_services_section_is_found(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[default]\nservices = lab\naws_access_key_id = k\naws_secret_access_key = s\n"
        "[services lab]\ns3 =\n  endpoint_url = https://s3.lab.example\n"
    )
    assert s3_access(settings()).endpoint == "https://s3.lab.example"


def test_the_addressing_style_of_the_settings_beats_the_profile(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[default]\nendpoint_url = https://h.example\ns3 =\n  addressing_style = virtual\n"
    )
    assert s3_access(settings()).place("lab").origin == "https://lab.h.example"
    path = s3_access(settings(addressing_style="path"))
    assert path.place("lab").origin == "https://h.example"
    keys = {"access_key_id": "k", "secret_access_key": "s", "addressing_style": "virtual"}
    access = s3_access(settings("https://h.example", **keys))
    assert access.place("lab").origin == "https://lab.h.example"
    with pytest.raises(UsageError, match="path or virtual"):
        s3_access(settings(addressing_style="host"))


def test_a_missing_s3_profile_is_named() -> None:
    with pytest.raises(CredentialsError, match="nosuch"):
        s3_access(settings(profile="nosuch"))


def test_half_an_s3_key_is_told() -> None:
    with pytest.raises(CredentialsError, match="secret_access_key"):
        s3_access(settings(access_key_id="only"))


def test_no_s3_credentials_at_all_are_denied_with_the_first_request() -> None:
    access = s3_access(settings())
    assert isinstance(access.credentials, ChainCredentials)
    with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
        access.credentials()


@pytest.mark.parametrize("name", ["anonymous", "skip_signature"])
def test_an_anonymous_s3_store_signs_nothing(name: str) -> None:
    access = s3_access(settings(**{name: "true"}))
    assert access.is_anonymous
    assert access.credentials() is None


@pytest.mark.parametrize(
    ("bucket", "endpoint", "region", "expected"),
    [
        ("lab", None, "eu-west-1", ("https://lab.s3.eu-west-1.amazonaws.com", "")),
        ("lab.x", None, "eu-west-1", ("https://s3.eu-west-1.amazonaws.com", "/lab.x")),
        ("lab", None, "cn-north-1", ("https://lab.s3.cn-north-1.amazonaws.com.cn", "")),
        ("lab", "http://127.0.0.1:9000", None, ("http://127.0.0.1:9000", "/lab")),
        ("lab", "https://host/swift/v1/", None, ("https://host", "/swift/v1/lab")),
        (
            "lab",
            "https://oss-cn-beijing.aliyuncs.com",
            None,
            ("https://lab.oss-cn-beijing.aliyuncs.com", ""),
        ),
        ("", "http://127.0.0.1:9000", None, ("http://127.0.0.1:9000", "")),
    ],
)
def test_where_an_s3_bucket_answers(
    bucket: str, endpoint: str | None, region: str | None, expected: tuple[str, str]
) -> None:
    place = s3_access(settings(endpoint, region, anonymous="true")).place(bucket)
    assert (place.origin, place.base_path) == expected


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.eu-central-1.wasabisys.com", "eu-central-1"),
        ("https://s3-us-west-2.amazonaws.com", "us-west-2"),
        ("https://oss-cn-hangzhou-internal.aliyuncs.com", "cn-hangzhou"),
        ("http://127.0.0.1:9000", "us-east-1"),
        ("https://minio.example.com", "us-east-1"),
        ("https://s3.example.com", "us-east-1"),
    ],
)
def test_the_region_is_read_from_the_endpoint(endpoint: str, region: str) -> None:
    assert region_of_endpoint(endpoint) == region


def test_an_endpoint_without_a_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="https://HOST"):
        s3_access(settings("localhost:9000"))


# Azure


def test_an_azure_connection_string_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=https;AccountName=lab;AccountKey={KEY}==;EndpointSuffix=core.x",
    )
    account = azure_account(settings())
    assert account == AzureAccount("lab", "https://lab.blob.core.x", key=f"{KEY}==")


def test_an_azure_sas_of_the_settings_beats_a_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "lab")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    assert azure_account(settings()).key == KEY
    account = azure_account(settings(sas_token="?sv=1&sig=x%3D"))
    assert account == AzureAccount("lab", "https://lab.blob.core.windows.net", sas="sv=1&sig=x%3D")


def test_an_azure_store_without_an_account_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="AZURE_STORAGE_ACCOUNT"):
        azure_account(settings())


def test_an_azure_key_that_is_no_base64_is_told() -> None:
    with pytest.raises(CredentialsError, match="base64"):
        azure_account(settings(account_name="lab", account_key="not base64!"))


def test_no_azure_secret_is_in_a_repr() -> None:
    assert KEY not in repr(azure_account(settings(account_name="lab", account_key=KEY)))


# GCS


def test_a_gcs_service_account_is_json_or_a_path(tmp_path: Path) -> None:
    text = json.dumps({"private_key": "x", "client_email": "y"})
    (tmp_path / "key.json").write_text(text)
    for given in (text, str(tmp_path / "key.json")):
        access = gcs_access(settings(service_account=given))
        assert isinstance(access.tokens, GoogleTokens)
        assert access.has_xml_api


def test_a_gcs_key_that_is_none_is_told(tmp_path: Path) -> None:
    for given in (str(tmp_path / "missing.json"), "{}", "{"):
        with pytest.raises(CredentialsError, match="service_account"):
            gcs_access(settings(service_account=given))


def test_a_gcs_emulator_is_asked_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    access = gcs_access(settings())
    assert (access.endpoint, access.tokens, access.has_xml_api) == (
        "http://127.0.0.1:9",
        None,
        False,
    )


def test_gcs_tokens_anonymous_and_given() -> None:
    assert gcs_access(settings(token="anon")).tokens is None
    assert gcs_access(settings(anonymous="true")).tokens is None
    assert gcs_access(settings(token="ya29.x")).tokens == BearerToken("ya29.x")


def test_missing_gcs_credentials_are_denied_with_the_first_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(Denied, match=r"missing\.json"):
        gcs_access(settings()).headers()


# All of them


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [
        ("s3://lab", "botocore", "mountd[s3]"),
        ("gs://lab", "google.auth", "mountd[gcs]"),
        ("gs://lab", "requests", "mountd[gcs]"),
        ("az://lab", "azure.identity", "mountd[azure]"),
    ],
)
def test_a_missing_package_is_told_with_its_extra_before_any_request(
    monkeypatch: pytest.MonkeyPatch, source: str, package: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StartError, match=re.escape(f"pip install '{extra}'")):
        open_store(parse_source(source), settings(account_name="lab"))
    if source.startswith("s3"):
        keys = settings(access_key_id="k", secret_access_key="s")
        with pytest.raises(UsageError, match=re.escape(extra)):
            open_store(parse_source(source), keys)


def test_every_credential_that_a_store_reads_may_stand_in_the_config() -> None:
    """Names are read off the sources: `given.get("user")`, `given["user"]`, lists of names."""
    read: set[str] = set()
    for path in Path(remotes.__path__[0]).glob("*.py"):
        text = path.read_text()
        read |= set(re.findall(r'\b(?:given|own|credentials)(?:\.get\(|\[)"(\w+)"', text))
    assert {"user", "token", "addressing_style", "account_key", "service_account"} <= read
    not_of_the_user = {"endpoint", "endpoint_suffix"}  # of Azure's environment and strings
    assert read - not_of_the_user <= set(CREDENTIALS)
    documented = (Path(__file__).parents[2] / "docs/config.md").read_text()
    for name in CREDENTIALS:
        assert f"`{name}`" in documented, name
