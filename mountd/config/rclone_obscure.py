"""rclone's obscured passwords: AES-256-CTR under a key that rclone publishes, the IV in front, as
base64url without padding. It hides a password from a glance, not from a reader of the file.

https://github.com/rclone/rclone/blob/master/fs/config/obscure/obscure.go
"""

import base64
import re

# The same in every rclone: no secret of anybody.
_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
_IV_BYTES = 16


def reveal(text: str) -> str:
    """The password. ValueError, which never repeats `text`, where it was not obscured.

    Not every wrong text is noticed: nothing in the format says that it is one.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if not re.fullmatch(r"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        raise ValueError("no base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(data) <= _IV_BYTES:
        raise ValueError("too short")
    cipher = Cipher(algorithms.AES(_KEY), modes.CTR(data[:_IV_BYTES])).decryptor()
    try:
        found = (cipher.update(data[_IV_BYTES:]) + cipher.finalize()).decode()
    except UnicodeDecodeError:
        found = "\0"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in found):
        raise ValueError("no text")
    return found
