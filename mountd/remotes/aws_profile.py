"""What the AWS config files say of a profile's S3 endpoint, without botocore.

Names, order and nesting as in https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html:
the profile's `services` section goes before its own `endpoint_url`. The name of a cache folder
depends on it, and importing botocore for that would cost 0.2 s with each command.
"""

import configparser
import os
import shlex
from collections.abc import Mapping


def profile_named(given: str, environ: Mapping[str, str]) -> str:
    """The profile that was chosen, "" where none was and the default's values hold."""
    return given or environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE") or ""


def configured_endpoint(profile: str, environ: Mapping[str, str]) -> str:
    """`endpoint_url` of `profile` ("": the default one) for S3; "" where there is none.

    A file that is missing or can't be read says nothing: who needs its keys complains about it.
    """
    config = _read(environ.get("AWS_CONFIG_FILE") or "~/.aws/config", environ)
    shared = _read(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", environ)
    name = profile or "default"
    values: dict[str, str] = {}
    # botocore, too, lets the file of credentials have the last word.
    for found in (config.get(("profile", name)), config.get((name,)), shared.get((name,))):
        values |= found or {}
    services = config.get(("services", values.get("services", "")), {})
    return _nested(services.get("s3", "")).get("endpoint_url") or values.get("endpoint_url", "")


def _read(path: str, environ: Mapping[str, str]) -> dict[tuple[str, ...], dict[str, str]]:
    """The sections by the words of their title: `[profile lab]` is `("profile", "lab")`."""
    if path.startswith("~/"):
        path = f"{environ.get('HOME') or os.path.expanduser('~')}{path[1:]}"
    parser = configparser.RawConfigParser(default_section="")
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
        return {tuple(shlex.split(title)): dict(parser[title]) for title in parser.sections()}
    except (OSError, ValueError, configparser.Error):
        return {}


def _nested(text: str) -> dict[str, str]:
    """The indented lines below `s3 =`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
