"""How a server proves that it is the one that was meant: by a certificate, always."""

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import certifi

from mountd.config import Settings
from mountd.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

log = logging.getLogger(__name__)

_MAX_BYTES: Final = 4 << 20
_FIX: Final = (
    "if the server is the right one, give the certificate of the authority that signed its own: "
    "ca_file=/PATH/CA.pem"
)


@dataclass(frozen=True, slots=True)
class Tls:
    """`authorities`: certificates in PEM that are trusted beside the system's. `is_verified` False
    takes anybody for the server."""

    authorities: str = ""
    is_verified: bool = True

    def context(self) -> ssl.SSLContext:
        """The system's certificates, certifi's (`SSL_CERT_FILE` replaces both) and `authorities`.
        Reads files: 30 ms."""
        context = ssl.create_default_context()
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        if "SSL_CERT_FILE" not in os.environ and "SSL_CERT_DIR" not in os.environ:
            # Slim containers have no certificates of their own.
            context.load_verify_locations(certifi.where())
        if self.authorities:
            context.load_verify_locations(cadata=self.authorities)
        return context

    def for_obstore(self) -> "ClientConfig":
        found: ClientConfig = {}
        if not self.is_verified:
            found["allow_invalid_certificates"] = True
        elif self.authorities:
            found["root_certificate"] = self.authorities
        return found


VERIFIED: Final = Tls()


def tls_of(settings: Settings) -> Tls:
    """Raises UsageError where `ca_file` can't be read or holds no certificate."""
    return make_tls(settings.ca_file, is_verified=settings.tls_verify)


def make_tls(ca_file: Path | None, *, is_verified: bool) -> Tls:
    """The same of single options."""
    if ca_file is None and is_verified:
        return VERIFIED
    return Tls("" if ca_file is None else _authorities(ca_file), is_verified)


def check_tls(settings: Settings, what: str) -> None:
    """Once for each store that is opened. Raises as `tls_of`; warns where nothing is verified."""
    if not tls_of(settings).is_verified:
        log.warning("%s: certificates are not verified: anybody on the way may be the server", what)


def refuse_tls(settings: Settings, what: str) -> None:
    """For a store that can't be told. Raises UsageError where it is to be told something."""
    if settings.ca_file is not None or not settings.tls_verify:
        raise UsageError(
            f"{what} takes no ca_file and no tls_verify; set SSL_CERT_FILE=/PATH/CA.pem in the "
            "environment"
        )


def is_default(settings: Settings) -> bool:
    """Whether nothing is said about certificates: then a library does as it always does."""
    return settings.ca_file is None and settings.tls_verify


def why_not_trusted(error: BaseException | None) -> str:
    """What is wrong with the server's certificate and what to do, where that is what an error
    comes from; else ""."""
    while error is not None:
        # aiohttp's own is one too, and has the message in what it comes from.
        if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_message"):
            return f"its certificate is not trusted: {error.verify_message}; {_FIX}"
        error = error.__cause__ or error.__context__
    return ""


def _authorities(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        is_file = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        why = error.strerror if is_file and isinstance(error, OSError) else "no certificates in PEM"
        raise UsageError(f"ca_file={path}: {why}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"ca_file={path}: it is too long for certificates")
    return text
