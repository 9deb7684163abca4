"""What a kept mount is of: the scripted S3 or Nextcloud, or a remote that does nothing but serve: a
bucket with versions (moto), Azure (azurite), our GCS, a local directory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mountd.remotes.temporary_names import is_temporary
from mountd.remotes.webdav_leftovers import is_own
from tests.crash.kill_loop_processes import BUCKET
from tests.crash.kill_loop_server import ScriptedNextcloud, Server
from tests.servers.azurite import ACCOUNT, ACCOUNT_KEY, Azurite, running_azurite
from tests.servers.gcs_fake import TOKEN, running_gcs_fake
from tests.servers.gcs_fake_state import GcsFake
from tests.servers.moto import Moto, running_moto
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

More = Sequence[tuple[int, str, str]]
NONE: More = ()
KINDS = ("s3", "versioned", "nextcloud", "azure", "gcs", "file")


class Remote(Protocol):
    """`scripted`: the server that can be told to fail or to hold a request, None for others.
    `more_points`: what only this one is asked for (kill_loop_points.points)."""

    @property
    def more_points(self) -> More: ...

    @property
    def moves_whole(self) -> bool:
        """A directory is renamed by one request, before the journal knows of it: a crash meanwhile
        leaves what a rename by somebody else would, with other inode numbers."""
        ...

    @property
    def scripted(self) -> Server | None: ...

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
    more_points = NONE
    moves_whole = False
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

    more_points = NONE
    moves_whole = False
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

    more_points: More = ((3, "move", "Move"), (1, "directory", "Mkcol"), (1, "touch", "Proppatch"))
    moves_whole = True

    def __init__(self, server: NextcloudServer) -> None:
        self._server = server
        self.scripted = ScriptedNextcloud(server)
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


class Azure:
    more_points = NONE
    moves_whole = False
    scripted = None

    def __init__(self, azurite: Azurite) -> None:
        self._container = azurite.service.get_container_client(azurite.container)
        self.source = f"az://{azurite.container}"
        self.environment = {
            "MOUNTD_ENDPOINT": azurite.endpoint,
            "MOUNTD_ACCOUNT_NAME": ACCOUNT,
            "MOUNTD_ACCOUNT_KEY": ACCOUNT_KEY,
        }

    def put(self, key: str, data: bytes) -> None:
        self._container.upload_blob(key, data)

    def keys(self) -> list[str]:
        return list(self._container.list_blob_names())

    def read(self, key: str) -> bytes:
        return bytes(self._container.download_blob(key).readall())


class Gcs:
    more_points = NONE
    moves_whole = False
    scripted = None

    def __init__(self, fake: GcsFake) -> None:
        self._fake = fake
        self.source = f"gs://{fake.bucket}"
        self.environment = {"MOUNTD_ENDPOINT": fake.endpoint, "MOUNTD_TOKEN": TOKEN}

    def put(self, key: str, data: bytes) -> None:
        self._fake.put(key, data)

    def keys(self) -> list[str]:
        return list(self._fake.snapshot())

    def read(self, key: str) -> bytes:
        return self._fake.snapshot()[key].data


class LocalDirectory:
    more_points = NONE
    moves_whole = False
    scripted = None

    def __init__(self, top: Path) -> None:
        self._top = top
        self.source = f"file://{top}"
        self.environment: dict[str, str] = {}

    def put(self, key: str, data: bytes) -> None:
        path = self._top / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def keys(self) -> list[str]:
        found = [path for path in self._top.rglob("*") if not is_temporary(path.name)]
        return [f"{path.relative_to(self._top)}{'/' if path.is_dir() else ''}" for path in found]

    def read(self, key: str) -> bytes:
        return (self._top / key).read_bytes()


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Remote]:
    """One of KINDS; a server's files are in `folder`."""
    if kind == "s3":
        with S3Server() as server:
            yield Scripted(server)
    elif kind == "versioned":
        with running_moto(folder) as moto:
            yield Versioned(moto)
    elif kind == "azure":
        with running_azurite(folder) as azurite:
            yield Azure(azurite)
    elif kind == "gcs":
        with running_gcs_fake() as fake:
            yield Gcs(fake)
    elif kind == "file":
        (folder / "remote").mkdir()
        yield LocalDirectory(folder / "remote")
    else:
        with NextcloudServer() as nextcloud:
            yield Nextcloud(nextcloud)
