"""Apache with mod_dav: speed, true keep-alive, and tags that are weak for a second."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.dav import PASSWORD, USER, DavServer
from tests.servers.process import free_port, running_process

_MODULES = Path("/usr/lib/apache2/modules")
_NAMES = (
    *("mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic"),
    *("dav", "dav_fs", "dav_lock", "mime"),
)
_CONFIG = """
ServerName localhost
ServerRoot {directory}
Listen 127.0.0.1:{port}
PidFile {directory}/apache.pid
ErrorLog {directory}/error.log
{user}
{modules}
TypesConfig /etc/mime.types
AcceptPathInfo Off
KeepAliveTimeout 5
MaxKeepAliveRequests 0
StartServers 1
ServerLimit 2
ThreadsPerChild 25
MaxRequestWorkers 50
DocumentRoot {directory}/files
DavLockDB {directory}/DavLock
CustomLog {directory}/access.log "%m %>s %I %O %U"
<Directory {directory}/files>
    Dav On
    Options -Indexes
    AllowOverride None
    AuthType Basic
    AuthName dav
    AuthUserFile {directory}/passwords
    Require valid-user
</Directory>
"""


@contextmanager
def running_apache(directory: Path) -> Iterator[DavServer]:
    """Serves `directory/files`. Started as root it drops to www-data, so `directory` and its
    parents must be readable by everybody; `access.log` has a line per request (method, status,
    bytes in, bytes out, path)."""
    port = free_port()
    files = directory / "files"
    files.mkdir()
    # So that www-data may write, locks included.
    os.chmod(files, 0o777)
    os.chmod(directory, 0o777)
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    (directory / "passwords").write_text(f"{USER}:{hashed}\n")
    config = directory / "httpd.conf"
    config.write_text(
        _CONFIG.format(
            directory=directory,
            port=port,
            user="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
            modules="\n".join(
                f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in _NAMES
            ),
        )
    )
    command = ["apache2", "-f", str(config), "-DFOREGROUND"]
    with running_process(command, port, directory / "apache.log"):
        yield DavServer(f"http://127.0.0.1:{port}", files)
