"""Who asks Google, and where: settings first, then the usual variables and google-auth's chain."""

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mountd.config import Settings
from mountd.config.credentials import is_anonymous
from mountd.errors import CredentialsError, Denied, Unreachable, UsageError
from mountd.remotes.tls import VERIFIED, Tls, tls_of

if TYPE_CHECKING:
    from obstore.store import GCSCredential

ENDPOINT = "https://storage.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
# google-auth renews 3 min 45 s before the end; what is handed on must not outlive that.
_HANDED_OUT_FOR = timedelta(minutes=3)


class GoogleTokens:
    """Access tokens from a service account's JSON, or from google-auth's default chain.

    The chain is walked with the first request, because on a machine without a metadata server it
    waits for one. Thread-safe.
    """

    def __init__(self, service_account: Mapping[str, Any] | None) -> None:
        self._service_account = service_account
        self._lock = threading.Lock()
        self._credentials: Any = None

    def token(self) -> str:
        """Raises Denied where there is none, Unreachable where who gives it doesn't answer."""
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        # Held while a token is fetched, so that many threads fetch one.
        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials = self._find()
                if not self._credentials.valid:
                    self._credentials.refresh(Request())
            except exceptions.TransportError as error:
                raise Unreachable(f"Google credentials: {error}") from error
            except (exceptions.GoogleAuthError, ValueError) as error:
                text = str(error).partition("\n")[0]
                raise Denied(f"Google credentials: {text}") from error
            return str(self._credentials.token)

    def _find(self) -> Any:
        if self._service_account is not None:
            from google.oauth2 import service_account

            of_info: Any = service_account.Credentials.from_service_account_info
            return of_info(self._service_account, scopes=_SCOPES)
        # Read at import: its default of three times 3 s stalls where there is no such server.
        os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
        import google.auth

        credentials, _project = google.auth.default(scopes=_SCOPES)
        return credentials


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token that was given and is never renewed."""

    text: str

    def token(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class GcsAccess:
    """`tokens` None is anonymous. `has_xml_api`: obstore can read there; emulators can't."""

    endpoint: str
    tokens: GoogleTokens | BearerToken | None
    project: str
    has_xml_api: bool
    tls: Tls = VERIFIED

    def headers(self) -> dict[str, str]:
        return {} if self.tokens is None else {"Authorization": f"Bearer {self.tokens.token()}"}

    def for_obstore(self) -> "GCSCredential":
        assert self.tokens is not None, "an anonymous store asks for no token"
        return {"token": self.tokens.token(), "expires_at": datetime.now(UTC) + _HANDED_OUT_FOR}


def gcs_access(settings: Settings) -> GcsAccess:
    """Raises UsageError for an endpoint that is no URL or a missing google-auth, CredentialsError
    for a key file that can't be read."""
    given = settings.credentials
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    endpoint = (settings.endpoint or emulator or ENDPOINT).rstrip("/")
    if "://" not in endpoint and not settings.endpoint:
        endpoint = f"http://{endpoint}"
    if not re.match(r"https?://[^/]+", endpoint):
        raise UsageError(f"endpoint {endpoint} is no URL; write https://HOST[:PORT]")
    is_google = (urlsplit(endpoint).hostname or "").endswith(".googleapis.com")
    project = given.get("project") or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    return GcsAccess(endpoint, _tokens(given, is_google), project, is_google, tls_of(settings))


def _tokens(given: Mapping[str, str], is_google: bool) -> GoogleTokens | BearerToken | None:
    key, token = given.get("service_account", ""), given.get("token", "")
    if is_anonymous(given) or token == "anon":
        return None
    if not key and token:
        return BearerToken(token)
    # Emulators ask for nothing, and our own chain's token is for Google alone.
    if not key and not is_google:
        return None
    _require_google_auth()
    return GoogleTokens(_service_account(key) if key else None)


def _require_google_auth() -> None:
    try:
        import google.auth  # noqa: F401
        import requests  # noqa: F401
    except ImportError as error:
        raise UsageError("gs:// needs the extra: pip install 'mountd[gcs]'") from error


def _service_account(text: str) -> Mapping[str, Any]:
    """The key itself, or the path of its file."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())
    except OSError as error:
        raise CredentialsError(f"service_account: cannot read {text}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CredentialsError("service_account is not the JSON of a key") from error
    if not isinstance(found, dict) or "private_key" not in found:
        raise CredentialsError("service_account: the JSON holds no private_key")
    return found
