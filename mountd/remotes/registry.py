"""SOURCE -> RemoteStore. Stores are imported only when their scheme is used: boto3 alone costs
0.3 s and 40 MB."""

from pathlib import Path

from mountd.config import Reach, Settings
from mountd.config.source import Source
from mountd.errors import UsageError
from mountd.remotes.base import RemoteStore
from mountd.remotes.tls import check_tls


def open_store(
    source: Source, settings: Settings, folder: Path | None = None, reach: Reach | None = None
) -> RemoteStore:
    """The bare store for `source`; no request is made yet. `folder`: of this source alone, where a
    store may remember what it has found out about the server. `reach`: for the locations of a
    manifest.

    Raises UsageError for a scheme that nobody serves or an extra that is not installed,
    CredentialsError where it is clear without a request that there are none.
    """
    if source.scheme == "manifest":
        if reach is None:
            raise UsageError(f"{source.text}: a manifest can't be used for this")
        from mountd.remotes.manifest_store import open_manifest

        return open_manifest(source, settings, reach, open_store)
    if source.scheme == "file":
        # Also with engine = "fsspec", whose local file system follows symlinks anywhere.
        from mountd.remotes.local import open_local

        return open_local(source, settings, folder)
    check_tls(settings, source.text)
    if settings.engine == "fsspec":
        from mountd.remotes.fsspec_store import open_fsspec

        return open_fsspec(source, settings)
    match source.scheme:
        case "s3":
            from mountd.remotes.s3 import open_s3
            from mountd.remotes.s3_memory import ProvenFile

            memory = ProvenFile(folder / "s3-proven.json") if folder is not None else None
            return open_s3(source, settings, memory=memory)
        case "gs":
            from mountd.remotes.gcs import open_gcs

            return open_gcs(source, settings)
        case "az":
            from mountd.remotes.azure import open_azure

            return open_azure(source, settings)
        case "webdav" | "webdav+http":
            from mountd.remotes.webdav import open_webdav

            return open_webdav(source, settings)
        case "nextcloud":
            from mountd.remotes.nextcloud import open_nextcloud

            return open_nextcloud(source, settings)
        case "oss" | "swift":
            from mountd.remotes.s3_doors import open_oss, open_swift
            from mountd.remotes.s3_memory import ProvenFile

            memory = ProvenFile(folder / "s3-proven.json") if folder is not None else None
            return (open_oss if source.scheme == "oss" else open_swift)(source, settings, memory)
        case _:
            from mountd.remotes.fsspec_store import open_fsspec

            return open_fsspec(source, settings)
