"""What a kept mount is of: the scripted S3, or a remote that does nothing but serve: a bucket with
versions (moto), a Nextcloud."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mountd.remotes.webdav_leftovers import is_own
from tests.crash.kill_loop_processes import BUCKET
from tests.servers.moto import Moto, running_moto
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

KINDS = ("s3", "versioned", "nextcloud")


class Remote(Protocol):
    """`scripted`: the server that can be told to fail or to hold a request, None for others."""

    @property
    def scripted(self) -> S3Server | None: ...

    @property
    def source(self) -> str: ...

    @property
    def environment(self) -> dict[str, str]: ...

    def put(self, key: str, data: bytes) -> None: ...

    def keys(self) -> list[str]:
        """Of files, and of directories with a slash at the end where the remote has any."""
        ...

    def read(self, key: str) -> bytes: ...


class Scripted:
    source = f"s3://{BUCKET}"

    def __init__(self, server: S3Server) -> None:
        self.scripted = server
        self._server = server
        self.environment = server.environment()
        server.make_bucket(BUCKET)

    def put(self, key: str, data: bytes) -> None:
        self._server.put(BUCKET, key, data)

    def keys(self) -> list[str]:
        return self._server.keys(BUCKET)

    def read(self, key: str) -> bytes:
        return self._server.read(BUCKET, key)


class Versioned:
    """A bucket that keeps every version."""

    scripted = None

    def __init__(self, moto: Moto) -> None:
        self._client, self._bucket = moto.client, moto.bucket
        self.source = f"s3://{moto.bucket}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": moto.access_key_id,
            "AWS_SECRET_ACCESS_KEY": moto.secret_access_key,
            "AWS_ENDPOINT_URL": moto.endpoint,
            "AWS_REGION": "us-east-1",
        }
        versioning = {"Status": "Enabled"}
        self._client.put_bucket_versioning(Bucket=self._bucket, VersioningConfiguration=versioning)

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data)

    def keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return body


class Nextcloud:
    """WebDAV as a Nextcloud speaks it. (Of plain WebDAV a successor can't tell whether a PUT whose
    answer was lost was its own: docs/remotes.md. So its kills end in conflict copies.)"""

    scripted = None

    def __init__(self, server: NextcloudServer) -> None:
        self._server = server
        self.source = f"nextcloud://{server.user}@cloud/"
        self.environment = {
            "MOUNTD_PASSWORD": server.password,
            "MOUNTD_ENDPOINT": server.url,
        }

    def put(self, key: str, data: bytes) -> None:
        for at in [at for at, letter in enumerate(key) if letter == "/"]:
            if self._server.node(key[:at]) is None:
                self._server.mkdir(key[:at])
        self._server.put(key, data)

    def keys(self) -> list[str]:
        """Without mountd's own temporary files: what a kill leaves of them goes with the first
        write that comes after a listing a day later (`test_webdav_writes.py`)."""
        return [key for key in self._server.tree() if not is_own(key.rpartition("/")[2])]

    def read(self, key: str) -> bytes:
        return self._server.read(key)


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Remote]:
    """One of KINDS; a server's files are in `folder`."""
    if kind == "s3":
        with S3Server() as server:
            yield Scripted(server)
    elif kind == "versioned":
        with running_moto(folder) as moto:
            yield Versioned(moto)
    else:
        with NextcloudServer() as nextcloud:
            yield Nextcloud(nextcloud)
