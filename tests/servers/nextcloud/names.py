"""Which names Nextcloud takes, and in which form it keeps them."""

import unicodedata

from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.settings import Settings

MAX_NAME = 250
_INVALID_PATH = "OCA\\DAV\\Connector\\Sabre\\Exception\\InvalidPath"


def normal(path: str) -> str:
    """NFC, as everything is stored and looked up."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def check_new_name(name: str, settings: Settings) -> None:
    """Measured on 24.0.5: 400 for characters and length, 403 for names, 423 for `.part`."""
    lower = name.lower()
    if len(name) > MAX_NAME:
        raise refused(400, "File name is too long", _INVALID_PATH)
    if not name.strip() or name in (".", ".."):
        raise refused(400, "Empty filename is not allowed", _INVALID_PATH)
    for character in name:
        if character in settings.forbidden_characters or ord(character) < 32:
            raise refused(
                400, f'"{character}" is not allowed inside a file or folder name.', _INVALID_PATH
            )
    if lower in settings.forbidden_names:
        raise refused(403, f"{name} is a forbidden file or folder name.")
    if lower.partition(".")[0] in settings.forbidden_basenames:
        raise refused(403, f"{name} is a forbidden prefix for file or folder names.")
    for extension in settings.forbidden_extensions:
        if lower.endswith(extension):
            raise refused(423, f"{name} is locked")
