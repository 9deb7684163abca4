"""Who asks, where and in which region: settings first, then the AWS chain.

The chain is botocore's: environment, profile, config files, SSO, container and instance roles. It
is only walked with the first request: without any credentials it ends at the instance metadata
address, which costs a second or two on a machine that has none.
"""

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mountd.config import Settings
from mountd.config.credentials import has_s3_keys, is_anonymous
from mountd.errors import CredentialsError, Denied, RemoteError, Unreachable, UsageError
from mountd.remotes.aws_profile import configured_endpoint, profile_named
from mountd.remotes.s3_rest import S3Keys, S3Place, split_endpoint

if TYPE_CHECKING:
    from botocore.credentials import Credentials as BotoCredentials
    from botocore.session import Session
    from obstore.store import S3Credential

DEFAULT_REGION = "us-east-1"
_NONE_FOUND_S = 30.0
# botocore never hands out credentials with less than 10 minutes left when it can refresh them.
_HANDED_OUT_FOR = timedelta(minutes=10)
_REGION_IN_HOST = re.compile(
    r"(?:^|\.)(?:s3|oss|obs|cos)[.-]([a-z]{2,4}-[a-z0-9-]+?)(?:-internal)?\."
)
_VIRTUAL_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_VIRTUAL_ONLY_HOSTS = (".aliyuncs.com", ".myqcloud.com")


@dataclass(frozen=True, slots=True)
class StaticCredentials:
    """Keys that stand in the settings, or None for unsigned requests."""

    keys: S3Keys | None

    def __call__(self) -> S3Keys | None:
        return self.keys

    def for_obstore(self) -> "S3Credential":
        assert self.keys is not None, "an anonymous store asks for no keys"
        return _for_obstore(self.keys, None)


class ChainCredentials:
    """botocore's chain, refreshed by botocore. Thread-safe.

    Raises Denied where there are none, and Unreachable where who gives them doesn't answer.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._lock = threading.Lock()
        self._found: BotoCredentials | None = None
        self._none_until_s = 0.0

    def __call__(self) -> S3Keys:
        from botocore.exceptions import BotoCoreError

        try:
            frozen = self._credentials().get_frozen_credentials()
        except BotoCoreError as error:
            raise _chain_error(error) from error
        return S3Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    def for_obstore(self) -> "S3Credential":
        return _for_obstore(self(), datetime.now(UTC) + _HANDED_OUT_FOR)

    def _credentials(self) -> "BotoCredentials":
        # The lock is held while the chain is walked, so that 16 threads ask the metadata once.
        with self._lock:
            if self._found is None and time.monotonic() >= self._none_until_s:
                self._found = self._session.get_credentials()
                self._none_until_s = time.monotonic() + _NONE_FOUND_S
            if self._found is None:
                raise Denied(
                    "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "a profile, or MOUNTD_ANONYMOUS=true for a public bucket"
                )
            return self._found


def _for_obstore(keys: S3Keys, expires_at: datetime | None) -> "S3Credential":
    return {
        "access_key_id": keys.access_key_id,
        "secret_access_key": keys.secret_access_key,
        "token": keys.session_token,
        "expires_at": expires_at,
    }


def _chain_error(error: Exception) -> RemoteError:
    from botocore.exceptions import ConnectionError as BotoConnectionError
    from botocore.exceptions import HTTPClientError, MetadataRetrievalError

    if isinstance(error, BotoConnectionError | HTTPClientError | MetadataRetrievalError):
        return Unreachable(f"AWS credentials: {error}")
    return Denied(f"AWS credentials: {error}")


@dataclass(frozen=True, slots=True)
class S3Access:
    """What is the same for every bucket of an account."""

    credentials: StaticCredentials | ChainCredentials
    endpoint: str | None
    region: str
    style: str

    @property
    def is_anonymous(self) -> bool:
        return isinstance(self.credentials, StaticCredentials) and self.credentials.keys is None

    def place(self, bucket: str) -> S3Place:
        """Where `bucket` answers; "" is the account itself."""
        if self.endpoint is None:
            suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
            origin, path = f"https://s3.{self.region}.{suffix}", ""
        else:
            origin, path = split_endpoint(self.endpoint)
        if not bucket or not self._is_virtual(bucket, origin):
            return S3Place(origin, f"{path}/{bucket}" if bucket else path, bucket, self.region)
        scheme, _, host = origin.partition("://")
        return S3Place(f"{scheme}://{bucket}.{host}", path, bucket, self.region)

    def _is_virtual(self, bucket: str, origin: str) -> bool:
        # A dot in the bucket's name doesn't match the certificate's wildcard.
        if not _VIRTUAL_BUCKET.fullmatch(bucket) or self.style == "path":
            return False
        return (
            self.style == "virtual"
            or self.endpoint is None
            or origin.partition("//")[2].endswith(_VIRTUAL_ONLY_HOSTS)
        )


def s3_access(settings: Settings) -> S3Access:
    """Raises UsageError for an endpoint that is no URL or a missing botocore, CredentialsError for
    half a key."""
    given = settings.credentials
    session = None if is_anonymous(given) or has_s3_keys(given) else _session(given)
    config: dict[str, Any] = session.get_scoped_config() if session is not None else {}
    endpoint = (
        settings.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or (_endpoint_of_profile(given) if session is not None else None)
    )
    if endpoint and not re.match(r"https?://[^/]+", endpoint):
        raise UsageError(f"endpoint {endpoint} is no URL; write https://HOST[:PORT]")
    region = (
        settings.region
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or config.get("region")
        or region_of_endpoint(endpoint or "")
    )
    s3_config = config.get("s3")
    style = s3_config.get("addressing_style", "") if isinstance(s3_config, dict) else ""
    style = _style(given) or style
    found = _static(given)
    if found is None:
        assert session is not None
        return S3Access(ChainCredentials(session), endpoint, region, style)
    if found.keys is not None:
        _require_botocore()  # it signs
    return S3Access(found, endpoint, region, style)


def region_of_endpoint(endpoint: str) -> str:
    """`eu-central-1` of `https://s3.eu-central-1.example.com`; us-east-1 where none is named."""
    match = _REGION_IN_HOST.search(endpoint.partition("://")[2].partition("/")[0])
    return match[1] if match else DEFAULT_REGION


def _static(given: Mapping[str, str]) -> StaticCredentials | None:
    if is_anonymous(given):
        return StaticCredentials(None)
    key, secret = given.get("access_key_id", ""), given.get("secret_access_key", "")
    if bool(key) != bool(secret):
        missing = "secret_access_key" if key else "access_key_id"
        raise CredentialsError(f"{missing} is missing beside its other half")
    if not key:
        return None
    return StaticCredentials(S3Keys(key, secret, given.get("session_token")))


def _endpoint_of_profile(given: Mapping[str, str]) -> str | None:
    profile = profile_named(given.get("profile", ""), os.environ)
    return configured_endpoint(profile, os.environ) or None


def _style(given: Mapping[str, str]) -> str:
    style = given.get("addressing_style", "").lower()
    if style not in ("", "auto", "path", "virtual"):
        raise UsageError(f"addressing_style takes path or virtual, not {style!r}")
    return style


def _require_botocore() -> None:
    try:
        import botocore.session  # noqa: F401
    except ImportError as error:
        raise UsageError("s3:// needs the extra: pip install 'mountd[s3]'") from error


def _session(given: Mapping[str, str]) -> "Session":
    """A botocore session, whose config files were read."""
    _require_botocore()
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session(profile=given.get("profile"))
    try:
        session.get_scoped_config()
    except BotoCoreError as error:
        raise CredentialsError(f"AWS configuration: {error}") from error
    return session
