"""`gs://`: ranged reads by obstore (XML API), everything else by the JSON API.

An emulator has no XML API, so there the reads go through the JSON API, too.
"""

from typing import TYPE_CHECKING

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import UsageError
from mountd.remotes.base import RemoteStore
from mountd.remotes.buckets import BucketsStore
from mountd.remotes.gcs_credentials import GcsAccess, gcs_access
from mountd.remotes.gcs_rest import GcsRest
from mountd.remotes.object_store import ObjectStore, PlainReader, RangeReader
from mountd.remotes.obstore_reads import ObstoreReads, client_options

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import GCSStore


def open_gcs(source: Source, settings: Settings, page_size: int | None = None) -> RemoteStore:
    """The store of `gs://bucket/prefix`, or of a project's buckets for a bare `gs://`.

    No request is made. Credentials: `anonymous` (or `token` = `anon`), `service_account` (the key
    or its path), `token`, else google-auth's chain (GOOGLE_APPLICATION_CREDENTIALS, ...).
    """
    return store_of(gcs_access(settings), source, settings.request_timeout_s, page_size)


def store_of(
    access: GcsAccess, source: Source, timeout_s: float, page_size: int | None = None
) -> RemoteStore:
    """The store of `source` for a known access."""

    def open_bucket(bucket: str, prefix: str = "") -> RemoteStore:
        rest = GcsRest(access, bucket, timeout_s)
        reads: RangeReader = PlainReader(rest)
        if access.has_xml_api:
            reads = ObstoreReads(
                _obstore(access, bucket, timeout_s),
                rest,
                timeout_s,
                # A generation in the URL: what else is there now is a 404, which is looked into.
                if_match=lambda version: {"version": version},
                version_of=_generation,
            )
        return ObjectStore(rest, reads, prefix, page_size)

    if source.authority:
        return open_bucket(source.authority, source.prefix)
    if not access.project:
        raise UsageError("a bare gs:// needs a project: set GOOGLE_CLOUD_PROJECT")
    account = GcsRest(access, "", timeout_s)
    return BucketsStore(account, open_bucket, account.capabilities)


def _generation(result: "GetResult") -> str:
    return result.meta["version"] or ""


def _obstore(access: GcsAccess, bucket: str, timeout_s: float) -> "GCSStore":
    try:
        from obstore.store import GCSStore
    except ImportError as error:
        raise UsageError("gs:// needs obstore: pip install obstore") from error
    options = client_options(timeout_s, access.endpoint.startswith("http://"), access.tls)
    # Without this a gzip-encoded object comes decompressed and whole.
    options["default_headers"] = {"accept-encoding": "gzip"}
    return GCSStore(
        bucket,
        config={"base_url": access.endpoint, "skip_signature": access.tokens is None},
        client_options=options,
        retry_config={"max_retries": 0},
        credential_provider=None if access.tokens is None else access.for_obstore,
    )
