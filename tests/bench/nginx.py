"""nginx in front of the S3 server: it sends the ranges of one file itself, and passes the rest on.

For rows in which the S3 server, one Python thread, might be the limit. nginx can't wait 30 ms, so
only rows without latency. It compares If-Match with an ETag that it makes of a file's time and
size, so the object behind it is given the same one.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.process_stats import cpu_seconds
from tests.servers.process import free_port, running_process
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

PROGRAM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_MIB = 1 << 20

_CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1;
    proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4;
    scgi_temp_path {folder}/t5;
    default_type binary/octet-stream;
    sendfile on;
    sendfile_max_chunk 1m;
    tcp_nopush on;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream};
            proxy_set_header Host $http_host;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location = /{bucket}/{key} {{ root {folder}/files; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Front:
    """An endpoint that answers like the S3 server's, signatures of that one file aside."""

    endpoint: str
    pid: int

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


def missing() -> str:
    """Why there can't be one, or ""."""
    found = shutil.which("nginx", path=PROGRAM_PATH)
    return "" if found else "nginx is not installed (apt-get install nginx-light)"


@contextmanager
def running_front(
    server: S3Server, folder: Path, *, bucket: str, key: str, size: int, mtime_s: float
) -> Iterator[Front]:
    """Makes the object, as a file of `size` bytes in `folder` and behind the S3 server."""
    path = folder / "files" / bucket / key
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for start in range(0, size, _MIB):
            file.write(synthetic_bytes(key, start, min(start + _MIB, size)))
    os.utime(path, (mtime_s, mtime_s))
    etag = f"{int(mtime_s):x}-{size:x}"
    server.seed(bucket, keys=[key], size=size, mtime_s=mtime_s, etag=etag)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            user=user, folder=folder, port=port, upstream=server.endpoint, bucket=bucket, key=key
        )
    )
    program = shutil.which("nginx", path=PROGRAM_PATH) or "nginx"
    command = [program, "-e", str(folder / "error.log"), "-c", str(config)]
    with running_process(command, port, folder / "nginx.log") as process:
        yield Front(f"http://127.0.0.1:{port}", process.pid)
