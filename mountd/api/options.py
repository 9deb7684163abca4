"""The options of the command line as keyword arguments, and how they reach it: secrets by the
environment of the child, which only its user can read, all others by -o, which everybody can."""

import os
from collections.abc import Mapping
from typing import Literal, TypedDict

from mountd.config.credentials import CREDENTIALS, credential_of, env_name
from mountd.config.options import OPTIONS
from mountd.config.source import nearest
from mountd.errors import UsageError

Path = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """What `-o` takes (docs/config.md): sizes are bytes or texts such as `20GiB`, `_s` is seconds.

    The last ones are credentials. `NAME_file` is the path of a file that has it.
    """

    cache_dir: Path
    cache_size: int | str
    block_size: int | str
    metadata_ttl_s: float
    write_back_s: float
    durability: Literal["local", "remote"]
    stop_timeout_s: float
    request_timeout_s: float
    read_only: bool
    allow_other: bool
    uid: int | str
    gid: int | str
    umask: int | str
    xattrs: bool
    metadata: Literal["fast", "full"]
    endpoint: str
    ca_file: Path
    tls_verify: bool | str
    region: str
    engine: Literal["native", "fsspec"]
    max_transfers: int
    bandwidth_up: int | str
    bandwidth_down: int | str
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["text", "json"]
    metrics: str

    user: str
    login_name: str
    password: str
    password_file: Path
    token: str
    token_file: Path
    access_key_id: str
    secret_access_key: str
    secret_access_key_file: Path
    session_token: str
    session_token_file: Path
    profile: str
    anonymous: bool
    skip_signature: bool
    addressing_style: str
    account_name: str
    account_key: str
    account_key_file: Path
    sas_token: str
    sas_token_file: Path
    connection_string: str
    connection_string_file: Path
    tenant_id: str
    client_id: str
    client_secret: str
    client_secret_file: Path
    project: str
    service_account: str
    service_account_file: Path


def words_and_secrets(
    options: Mapping[str, object], config: Path | None
) -> tuple[list[str], dict[str, str]]:
    """The arguments for these options, and what goes into the child's environment. None is the
    same as left out. Raises UsageError for a name that there isn't."""
    words = ["--config", os.fspath(config)] if config is not None else []
    secrets: dict[str, str] = {}
    for name, value in options.items():
        known = credential_of(name)
        if known is None and name not in OPTIONS:
            raise UsageError(f"unknown option {name!r}{nearest(name, [*OPTIONS, *CREDENTIALS])}")
        if value is None:
            continue
        if known == name and CREDENTIALS[name]:
            secrets[env_name(name)] = _text(name, value)
        else:
            words += ["-o", f"{name}={_text(name, value)}".replace(",", "\\,")]
    return words, secrets


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "umask" and isinstance(value, int):
        return f"{value:03o}"
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"{name} can't be a {type(value).__name__}")
