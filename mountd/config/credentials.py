"""Where credentials may stand, and where they may not: never on the command line.

A store gets them as `Settings.credentials`, under the provider's own names in lower case. What a
provider's own chain finds (AWS_*, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, ...) the store finds.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mountd.errors import UsageError

# True: a secret. False: a name that may be shown and stand on the command line.
CREDENTIALS: Mapping[str, bool] = MappingProxyType(
    {
        "user": False,
        "login_name": False,
        "password": True,
        "token": True,
        "access_key_id": False,
        "secret_access_key": True,
        "session_token": True,
        "profile": False,
        "anonymous": False,
        "skip_signature": False,
        "addressing_style": False,
        "account_name": False,
        "account_key": True,
        "sas_token": True,
        "connection_string": True,
        "tenant_id": False,
        "client_id": False,
        "client_secret": True,
        "project": False,
        "service_account": True,
    }
)
FILE_SUFFIX = "_file"
_MAX_BYTES = 1 << 20


def credential_of(key: str) -> str | None:
    """The credential that `key` (`password`, `password_file`) gives, or None."""
    name = key.removesuffix(FILE_SUFFIX)
    return name if name in CREDENTIALS else None


def read_secret_file(path_text: str, where: str, base: Path) -> str:
    """The file's text without the line end. `~` and `$VARIABLE` are expanded, so that systemd's
    `$CREDENTIALS_DIRECTORY/password` works; a relative path starts at `base`.

    Raises UsageError naming `where` and the file.
    """
    path = base / os.path.expandvars(os.path.expanduser(path_text))
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode().rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"{where}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: {path} is no text file") from error
    if not text or len(data) > _MAX_BYTES:
        raise UsageError(f"{where}: {path} is {'too long' if text else 'empty'}")
    return text


def from_command_line(key: str, value: str | None, where: str) -> tuple[str, str]:
    """(name, value) of a credential given with -o. Raises UsageError for a secret itself."""
    name = key.removesuffix(FILE_SUFFIX)
    if not value:
        raise UsageError(f"{where}: {key} has no value")
    if key != name:
        return name, read_secret_file(value, f"{where} {key}", Path.cwd())
    if CREDENTIALS[name]:
        raise UsageError(
            f"{where}: {key}= would show the secret to everybody on this machine; "
            f"write {key}_file=PATH, or set {env_name(name)} in the environment"
        )
    return name, value


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`MOUNTD_USER`, `MOUNTD_PASSWORD`, `MOUNTD_PASSWORD_FILE`, `MOUNTD_TOKEN`, ...; then what the
    service manager has loaded as `mountd.user`, `mountd.password`, ... A bare `password` there may
    be for another program of the same service, so it is not looked at."""
    found: dict[str, str] = {}
    for name in CREDENTIALS:
        variable = env_name(name)
        file_variable = variable + FILE_SUFFIX.upper()
        if environ.get(variable):
            found[name] = environ[variable]
        elif environ.get(file_variable):
            found[name] = read_secret_file(environ[file_variable], file_variable, Path.cwd())
        elif (loaded := _loaded(name, environ)) is not None:
            found[name] = read_secret_file(str(loaded), f"credential {loaded.name}", Path("/"))
    return found


def _loaded(name: str, environ: Mapping[str, str]) -> Path | None:
    """The file of LoadCredential= and its like (systemd.exec(5)), where there is one."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if not os.path.isabs(folder):
        return None
    path = Path(folder) / f"mountd.{name}"
    try:
        os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        pass  # it was meant for us: reading it says what is wrong
    return path


def is_true(text: str | None) -> bool:
    """Whether the text of a credential that is a switch says yes."""
    return (text or "").strip().lower() in ("1", "true", "yes", "on")


def is_anonymous(credentials: Mapping[str, str]) -> bool:
    """Whether requests are to go out unsigned. obstore's name for it is accepted, too."""
    return any(is_true(credentials.get(name)) for name in ("anonymous", "skip_signature"))


def has_s3_keys(credentials: Mapping[str, str]) -> bool:
    """Whether AWS's own chain and config files need not be asked."""
    return bool(credentials.get("access_key_id") and credentials.get("secret_access_key"))


def env_name(name: str) -> str:
    """The environment variable of an option or credential."""
    return f"MOUNTD_{name.upper()}"
