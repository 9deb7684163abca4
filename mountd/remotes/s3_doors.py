"""`oss://` and `swift://`: services that are spoken to through their S3 APIs.

Aliyun OSS (https://help.aliyun.com/en/oss/developer-reference/use-aws-sdks-to-access-oss): at
`s3.oss-REGION.aliyuncs.com`, the bucket in the host's name. Swift: where its s3api is.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from mountd.config import Settings
from mountd.config.credentials import has_s3_keys, is_anonymous
from mountd.config.source import Source
from mountd.errors import CredentialsError, UsageError
from mountd.remotes.base import RemoteStore
from mountd.remotes.s3 import open_s3
from mountd.remotes.s3_probe import ProvenMemory

# Name of the id, the secret and a token; what Aliyun's own tools read.
_OSS_KEYS = (
    (
        *("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        "ALIBABA_CLOUD_SECURITY_TOKEN",
    ),
    ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
)
_REGION = re.compile(r"[a-z0-9-]+")
_OWN_API = re.compile(r"(https?://)(oss-[a-z0-9-]+\.aliyuncs\.com/*)")
_REGION_IN_HOST = re.compile(r"://(?:s3\.)?oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com")


def open_oss(source: Source, settings: Settings, memory: ProvenMemory | None) -> RemoteStore:
    """As `open_s3`. UsageError where neither endpoint nor region is known, CredentialsError without
    keys: those of another provider's chain are never sent there."""
    return open_s3(source, oss_settings(settings, os.environ), memory=memory)


def open_swift(source: Source, settings: Settings, memory: ProvenMemory | None) -> RemoteStore:
    """As `open_s3`, with keys and an endpoint that must be given."""
    if not settings.endpoint:
        raise UsageError(
            f"{source.text} needs -o endpoint=https://HOST: the address of Swift's S3 API (s3api)"
        )
    _check_keys(settings.credentials, "set MOUNTD_ACCESS_KEY_ID and MOUNTD_SECRET_ACCESS_KEY")
    given = {"addressing_style": "path", **settings.credentials}
    region = settings.region or "us-east-1"
    settings = replace(settings, region=region, credentials=MappingProxyType(given))
    return open_s3(source, settings, memory=memory)


def oss_settings(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """What `open_s3` needs for OSS."""
    region = settings.region or environ.get("OSS_REGION") or ""
    region = region.removeprefix("oss-")
    endpoint = settings.endpoint or environ.get("OSS_ENDPOINT") or ""
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    if not endpoint and not region:
        raise UsageError("oss:// needs -o region=cn-hangzhou (or another), or an endpoint")
    if not endpoint:
        if not _REGION.fullmatch(region):
            raise UsageError(f"{region} is no region of OSS; write one like cn-hangzhou")
        endpoint = f"https://s3.oss-{region}.aliyuncs.com"
    endpoint = _OWN_API.sub(r"\1s3.\2", endpoint)  # where the S3 API answers
    if not region:
        found = _REGION_IN_HOST.search(endpoint)
        region = found[1] if found else "oss"
    given = {"addressing_style": "virtual", **settings.credentials, **_oss_keys(settings, environ)}
    _check_keys(given, "set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET")
    return replace(settings, endpoint=endpoint, region=region, credentials=MappingProxyType(given))


def _oss_keys(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, str]:
    given = settings.credentials
    if is_anonymous(given) or given.get("access_key_id") or given.get("secret_access_key"):
        return {}
    for names in _OSS_KEYS:
        if environ.get(names[0]) and environ.get(names[1]):
            found = ("access_key_id", "secret_access_key", "session_token")
            values = (environ.get(name, "") for name in names)
            return {name: value for name, value in zip(found, values, strict=True) if value}
    return {}


def _check_keys(given: Mapping[str, str], advice: str) -> None:
    if not is_anonymous(given) and not has_s3_keys(given):
        raise CredentialsError(f"there is no access key; {advice}")
