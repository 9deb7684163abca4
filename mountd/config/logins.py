"""Sign-ins that `mountd login` has stored: a file each, in a folder that only its user may enter.

`~/.config/mountd/logins/SERVER/USER.json`, SERVER without `https://` and with everything unusual
percent-encoded. One is only ever used for the server that it was made at.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mountd.errors import CredentialsError, StartError

_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Login:
    """`user` is the account's name in paths; `login_name` is what one signs in with, which may be
    an e-mail address. `server`: as `server_of` says it."""

    server: str
    user: str
    login_name: str
    password: str = field(repr=False)


def server_of(authority: str, endpoint: str | None) -> str:
    """`https://host[:port][/folder]`, so that one server has one spelling."""
    parts = urlsplit(endpoint or f"https://{authority}")
    netloc = parts.netloc.lower()
    default = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return f"{parts.scheme}://{netloc.removesuffix(default)}{parts.path.rstrip('/')}"


def logins_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Beside the user's own config file."""
    home = environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path("~/.config").expanduser()
    return base / "mountd" / "logins"


def save(login: Login, folder: Path) -> Path:
    """Puts it in the place of an older one of the same account; survives a power cut once this
    returned. The file's path. Raises StartError."""
    from mountd_cache.durable_io import DISK, DirectoryNotPrivate, make_private_dir

    path = _of_server(folder, login.server) / f"{quote(login.user, safe='@')}.json"
    data = {
        "server": login.server,
        "user": login.user,
        "login_name": login.login_name,
        "password": login.password,
    }
    try:
        make_private_dir(folder)
        make_private_dir(path.parent)
        DISK.write_file(path, json.dumps(data, indent=1).encode() + b"\n")
    except (OSError, DirectoryNotPrivate) as error:
        raise StartError(f"the sign-in could not be stored in {path}: {error}") from error
    return path


def find(server: str, user: str, folder: Path) -> Login | None:
    """The stored sign-in of `user` (its name or login name) at `server`; with user "" the only
    one. Raises CredentialsError where there are several, or one can't be used."""
    paths = sorted(_of_server(folder, server).glob("*.json"))
    found = [login for login in map(_read, paths) if login.server == server]
    if user:
        return next((one for one in found if user in (one.user, one.login_name)), None)
    if len(found) > 1:
        names = ", ".join(one.user for one in found)
        raise CredentialsError(
            f"there are sign-ins of {names} at {server}; write nextcloud://USER@HOST/PATH"
        )
    return found[0] if found else None


def add_login(
    credentials: dict[str, str], authority: str, endpoint: str | None, environ: Mapping[str, str]
) -> None:
    """Completes `credentials` that have no password and no token of their own."""
    if credentials.get("password") or credentials.get("token"):
        return
    server = server_of(authority, endpoint)
    login = find(server, credentials.get("user", ""), logins_dir(environ))
    if login is not None:
        credentials |= {
            "user": login.user,
            "login_name": login.login_name,
            "password": login.password,
        }


def _of_server(folder: Path, server: str) -> Path:
    return folder / quote(server.removeprefix("https://"), safe="")


def _read(path: Path) -> Login:
    """Raises CredentialsError."""
    again = "type mountd login again, or delete it"
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise CredentialsError(f"others may read {path}; type: chmod 600 {path}")
            data: Any = json.loads(file.read(_MAX_BYTES))
        parts = [data[name] for name in ("server", "user", "login_name", "password")]
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CredentialsError(f"{path} is damaged; {again}") from error
    if not all(isinstance(part, str) and part for part in parts):
        raise CredentialsError(f"{path} is damaged; {again}")
    return Login(*parts)
