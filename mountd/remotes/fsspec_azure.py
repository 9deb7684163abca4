"""Listing for adlfs, through the azure client that it holds.

adlfs' own `ls` of a directory that has a marker blob answers the marker and hides all the rest
(2026.8.0; likewise `k/` beside a blob `k`, and names that end in a space): a full directory would
look empty.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

_IS_FOLDER = ("hdi_isfolder", "Hdi_isfolder", "is_directory")


def azure_listing(fs: Any) -> Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]:
    """A coroutine function like `fs._ls(path, detail=True)`, over the same connections.

    Raises what azure-storage-blob raises; a missing directory is an empty list.
    """

    async def ls(path: str) -> Sequence[Mapping[str, Any]]:
        container, _, directory = path.partition("/")
        prefix = f"{directory}/" if directory else ""
        found: list[Mapping[str, Any]] = []
        async with fs.service_client.get_container_client(container=container) as client:
            blobs = client.walk_blobs(name_starts_with=prefix, delimiter="/", include=["metadata"])
            async for blob in blobs:
                found.append(_info(container, blob))
        return found

    return ls


def _info(container: str, blob: Any) -> Mapping[str, Any]:
    name = f"{container}/{blob.name}"
    metadata = getattr(blob, "metadata", None) or {}
    # A prefix has no size. Hadoop's tools mark directories by metadata instead of a slash.
    is_folder = any(metadata.get(key) == "true" for key in _IS_FOLDER)
    if not hasattr(blob, "size") or is_folder:
        return {"name": name, "type": "directory", "size": 0}
    # adlfs' info() has the tag in quotes, as HTTP has it; azure's listing has it without.
    etag = str(blob.etag).strip('"')
    return {
        "name": name,
        "type": "file",
        "size": blob.size,
        "etag": f'"{etag}"',
        "last_modified": blob.last_modified,
    }
