"""Which names Nextcloud takes, and in which form it keeps them."""

import unicodedata

from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.settings import Settings
from tests.servers.s3.message import S3Error

MAX_NAME_BYTES = 250
_INVALID_PATH = "OCA\\DAV\\Connector\\Sabre\\Exception\\InvalidPath"


def normal(path: str) -> str:
    """NFC, as everything is stored and looked up."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def check_new_name(name: str, settings: Settings) -> None:
    """Measured: 400 for all of it on 32.0.1; 24.0.5 has 403 for names and 423 for `.part`."""
    lower = name.lower()
    if len(name.encode()) > MAX_NAME_BYTES:
        raise refused(400, "File name is too long", _INVALID_PATH)
    if not name.strip() or name in (".", ".."):
        raise refused(400, "Empty filename is not allowed", _INVALID_PATH)
    for character in name:
        if character in settings.forbidden_characters or ord(character) < 32:
            raise refused(
                400, f'"{character}" is not allowed inside a file or folder name.', _INVALID_PATH
            )
    old = settings.release < 30
    if lower in settings.forbidden_names:
        raise _refused(403 if old else 400, "Filename is a reserved word")
    if lower.partition(".")[0] in settings.forbidden_basenames:
        raise _refused(403 if old else 400, "Filename is a reserved word")
    for extension in settings.forbidden_extensions:
        if lower.endswith(extension):
            raise _refused(423 if old else 400, f'"{extension}" is a forbidden file type.')


def _refused(status: int, message: str) -> S3Error:
    return refused(status, message, _INVALID_PATH if status == 400 else "")
