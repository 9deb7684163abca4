"""moto's server, whose listings of a bucket with versions are those of S3. Run as a script.

moto 5 lists a prefix that has nothing but delete markers as a common prefix: a directory that was
removed, or renamed, would be there for ever.
"""

import sys
from typing import Any

from moto.s3.models import FakeDeleteMarker, S3Backend
from moto.server import main

_list_objects = S3Backend.list_objects


def list_objects(
    self: S3Backend,
    bucket: Any,
    prefix: str | None,
    delimiter: str | None,
    *limits: Any,
    **more: Any,
) -> Any:
    found = _list_objects(self, bucket, prefix, delimiter, *limits, **more)
    keys, folders, *rest = found
    if not folders or not delimiter:
        return found
    at, alive = len(prefix or ""), set()
    for name, key in bucket.keys.items():
        if name.startswith(prefix or "") and not isinstance(key, FakeDeleteMarker):
            alive.add(name[:at] + name[at:].split(delimiter)[0] + delimiter)
    return keys, [folder for folder in folders if folder in alive], *rest


if __name__ == "__main__":
    S3Backend.list_objects = list_objects  # type: ignore[method-assign]
    main(sys.argv[1:])
