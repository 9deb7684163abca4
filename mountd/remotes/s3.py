"""`s3://`: ranged reads and small puts by obstore, all else by signed REST requests."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import UsageError
from mountd.remotes.base import RemoteStore
from mountd.remotes.buckets import BucketsStore
from mountd.remotes.object_store import CAPABILITIES, ObjectStore
from mountd.remotes.obstore_puts import ObstorePuts
from mountd.remotes.obstore_reads import ObstoreReads, client_options
from mountd.remotes.s3_credentials import S3Access, s3_access
from mountd.remotes.s3_probe import ProvenMemory, Prover
from mountd.remotes.s3_rest import S3Place, S3Rest
from mountd.remotes.s3_write import KEY_LIMIT, S3Bucket
from mountd.remotes.tls import Tls, tls_of

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store


def open_s3(
    source: Source,
    settings: Settings,
    page_size: int | None = None,
    memory: ProvenMemory | None = None,
) -> RemoteStore:
    """The store of `s3://bucket/prefix`, or of all buckets for a bare `s3://`.

    No request is made. Credentials: `anonymous`, `access_key_id` with `secret_access_key` and
    `session_token`, `profile`, else botocore's chain. Endpoint and region: settings, AWS_*, the
    profile. `addressing_style` is `path` or `virtual`. `memory` is asked what the server enforces
    before the first write would find it out, and told what was found.
    """
    access = s3_access(settings)
    timeout_s, tls = settings.request_timeout_s, tls_of(settings)

    def open_bucket(bucket: str, prefix: str = "") -> RemoteStore:
        place = access.place(bucket)
        rest = S3Rest(place, access.credentials, timeout_s, tls)
        obstore = _obstore(place, access, timeout_s, tls)
        has_token = partial(_would_leak, place, access)
        reads = ObstoreReads(obstore, rest, timeout_s, notes_ids=True, is_plain=has_token)
        prover = Prover(rest, f"{prefix}/" if prefix else "", memory)
        puts = None if access.is_anonymous else ObstorePuts(obstore, timeout_s, has_token)
        return ObjectStore(S3Bucket(rest, prover, puts), reads, prefix, page_size)

    if source.authority:
        return open_bucket(source.authority, source.prefix)
    account = S3Rest(access.place(""), access.credentials, timeout_s, tls)
    capabilities = replace(CAPABILITIES, key_limit=KEY_LIMIT)
    return BucketsStore(account, open_bucket, capabilities)


def _would_leak(place: S3Place, access: S3Access) -> bool:
    """Whether a redirect could take a session token elsewhere: obstore sends that header to any
    host. Amazon's own redirects stay at Amazon."""
    if place.is_aws:
        return False
    keys = access.credentials()
    return keys is not None and bool(keys.session_token)


def _obstore(place: S3Place, access: S3Access, timeout_s: float, tls: Tls) -> "S3Store":
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise UsageError("s3:// needs obstore: pip install obstore") from error
    is_virtual = not place.base_path.endswith(f"/{place.bucket}")
    path = place.base_path if is_virtual else place.base_path.removesuffix(f"/{place.bucket}")
    # Everything is said here, because obstore fills gaps from AWS_* by rules of its own.
    config: S3Config = {
        "endpoint": place.origin + path,
        "region": place.region,
        "virtual_hosted_style_request": is_virtual,
        "skip_signature": access.is_anonymous,
    }
    return S3Store(
        place.bucket,
        config=config,
        client_options=client_options(timeout_s, place.origin.startswith("http://"), tls),
        retry_config={"max_retries": 0},
        credential_provider=None if access.is_anonymous else access.credentials.for_obstore,
    )
