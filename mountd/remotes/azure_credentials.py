"""Which storage account, by which right: settings first, then the usual variables.

In order: `connection_string`, `account_key`, `sas_token`, `token` (a bearer token), `anonymous`;
the same from AZURE_STORAGE_*; then azure-identity (environment, workload and managed identity,
`az login`), with `tenant_id`, `client_id` and `client_secret` where they are given.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from mountd.config import Settings
from mountd.config.credentials import is_anonymous
from mountd.errors import CredentialsError, Denied, UsageError
from mountd.remotes.tls import VERIFIED, Tls, tls_of

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential
    from obstore.store import AzureAccessKey, AzureBearerToken, AzureSASToken

API_VERSION = "2021-12-02"
_SCOPE = "https://storage.azure.com/.default"
_REFRESH_BEFORE_S = 300.0
_SAS_FOR = timedelta(hours=1)  # of one copy, and of clocks that differ
# The well-known account of Microsoft's storage emulators, in their documentation.
_EMULATOR_ACCOUNT = "devstoreaccount1"
_EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_SIGNED_HEADERS = (
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type"),
    *("date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)


class BearerTokens:
    """Tokens of azure-identity, renewed 5 minutes before they end. Thread-safe."""

    def __init__(self, credential: "TokenCredential") -> None:
        self._credential = credential
        self._lock = threading.Lock()
        self._token: AccessToken | None = None

    def token(self) -> "AccessToken":
        """Raises Denied where nobody gives one."""
        from azure.core.exceptions import AzureError

        # Held while the token is fetched, so that many threads fetch one.
        with self._lock:
            if self._token is None or self._token.expires_on < time.time() + _REFRESH_BEFORE_S:
                try:
                    self._token = self._credential.get_token(_SCOPE)
                except AzureError as error:
                    text = str(error).partition("\n")[0]
                    raise Denied(f"Azure credentials: {text}") from error
            return self._token


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """`endpoint` has no slash at its end. Of key, SAS, bearer and tokens at most one is set;
    none is anonymous."""

    name: str
    endpoint: str
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    tokens: BearerTokens | None = None
    tls: Tls = VERIFIED

    @property
    def is_anonymous(self) -> bool:
        return not (self.key or self.sas or self.bearer or self.tokens)

    @property
    def is_azures(self) -> bool:
        """Whether it is Microsoft's own server, which redirects nobody to another's."""
        host = urlsplit(self.endpoint).hostname or ""
        return bool(re.search(r"\.blob\.(core\.|storage\.azure\.)[a-z.]+$", host))

    def for_obstore(self) -> "AzureAccessKey | AzureSASToken | AzureBearerToken":
        """What obstore's credential provider gives."""
        if self.key:
            return {"access_key": self.key, "expires_at": None}
        if self.sas:
            return {"sas_token": self.sas, "expires_at": None}
        if self.tokens is None:
            return {"token": self.bearer, "expires_at": None}
        token = self.tokens.token()
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    def signed(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> dict[str, str]:
        """`headers` with date, version and Authorization. `path` is encoded, `query` is not.

        https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        out = {**headers, "x-ms-date": formatdate(usegmt=True), "x-ms-version": API_VERSION}
        if self.key:
            out["Authorization"] = f"SharedKey {self.name}:{self._mac(method, path, query, out)}"
        elif token := self.bearer_token():
            out["Authorization"] = f"Bearer {token}"
        return out

    def bearer_token(self) -> str:
        """ "" where it isn't one that gives the right. Raises Denied where nobody gives it."""
        return self.bearer if self.tokens is None else self.tokens.token().token

    def read_sas(self, container: str, key: str) -> dict[str, str]:
        """The query of a URL by which Azure itself may read one blob of ours. Needs `key`.

        https://learn.microsoft.com/rest/api/storageservices/create-service-sas
        """
        until = (datetime.now(UTC) + _SAS_FOR).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = {"sp": "r", "se": until, "sv": API_VERSION, "sr": "b"}
        place = f"/blob/{self.name}/{container}/{key}"
        # No start, identifier, address or protocol; no snapshot, scope or headers of the answer.
        lines = ["r", "", until, place, "", "", "", API_VERSION, "b", *[""] * 7]
        return {**query, "sig": self._sign("\n".join(lines))}

    def _mac(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> str:
        lower = {name.lower(): value for name, value in headers.items()}
        lines = [method, *(lower.get(name, "") for name in _SIGNED_HEADERS)]
        lines += [f"{name}:{lower[name]}" for name in sorted(lower, key=_order) if _is_ms(name)]
        lines.append(f"/{self.name}{path}")
        lines += [f"{name}:{query[name]}" for name in sorted(query)]
        return self._sign("\n".join(lines))

    def _sign(self, text: str) -> str:
        mac = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256)
        return base64.b64encode(mac.digest()).decode()


def _is_ms(name: str) -> bool:
    return name.startswith("x-ms-")


def _order(name: str) -> str:
    # Azure sorts `_` before digits, azurite, too; ASCII has it behind them.
    return name.replace("_", "!")


def azure_account(settings: Settings) -> AzureAccount:
    """Raises UsageError without an account, CredentialsError for a key that is none."""
    given = _from_environment() | dict(settings.credentials)
    own = settings.credentials
    # A right that stands in the settings beats every one of the environment.
    if any(own.get(name) for name in ("account_key", "sas_token", "token", "anonymous")):
        given = {**own, "account_name": given.get("account_name", "")}
    if given.get("connection_string") and not given.get("account_key"):
        given = _of_connection_string(given["connection_string"]) | {
            name: value for name, value in given.items() if name != "connection_string"
        }
    name = given.get("account_name", "") or _name_in(settings.endpoint or "")
    if not name:
        raise UsageError("az:// needs an account: set AZURE_STORAGE_ACCOUNT or account_name")
    endpoint = (
        settings.endpoint
        or given.get("endpoint")
        or f"https://{name}.blob.{given.get('endpoint_suffix') or 'core.windows.net'}"
    ).rstrip("/")
    if not re.match(r"https?://[^/]+", endpoint):
        raise UsageError(f"endpoint {endpoint} is no URL; write https://HOST[:PORT]")
    return replace(_with_right(name, endpoint, given), tls=tls_of(settings))


def _with_right(name: str, endpoint: str, given: Mapping[str, str]) -> AzureAccount:
    if is_anonymous(given):
        return AzureAccount(name, endpoint)
    if given.get("account_key"):
        try:
            base64.b64decode(given["account_key"], validate=True)
        except binascii.Error as error:
            raise CredentialsError("account_key is not base64, so it is no account key") from error
        return AzureAccount(name, endpoint, key=given["account_key"])
    if given.get("sas_token"):
        return AzureAccount(name, endpoint, sas=given["sas_token"].removeprefix("?"))
    if given.get("token"):
        return AzureAccount(name, endpoint, bearer=given["token"])
    return AzureAccount(name, endpoint, tokens=BearerTokens(_identity(given)))


def sas_query(account: AzureAccount) -> dict[str, str]:
    return dict(parse_qsl(account.sas, keep_blank_values=True))


def _identity(given: Mapping[str, str]) -> "TokenCredential":
    try:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential
    except ImportError as error:
        raise CredentialsError(
            "az:// found no key, SAS or token, and azure-identity is not installed: "
            "set AZURE_STORAGE_KEY, or pip install 'mountd[azure]'"
        ) from error
    wanted = [given.get(name, "") for name in ("tenant_id", "client_id", "client_secret")]
    if all(wanted):
        return ClientSecretCredential(wanted[0], wanted[1], wanted[2])
    # It asks nobody yet: the chain is walked for the first token, with the first request.
    return DefaultAzureCredential(managed_identity_client_id=given.get("client_id"))


def _from_environment() -> dict[str, str]:
    names = {
        "account_name": ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
        "account_key": ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        "sas_token": ("AZURE_STORAGE_SAS_TOKEN",),
        "connection_string": ("AZURE_STORAGE_CONNECTION_STRING",),
        "endpoint": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT_URL"),
    }
    found = {
        name: next((os.environ[each] for each in variables if os.environ.get(each)), "")
        for name, variables in names.items()
    }
    return {name: value for name, value in found.items() if value}


def _of_connection_string(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.strip().strip(";").split(";")]
    parts = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        return {
            "account_name": _EMULATOR_ACCOUNT,
            "account_key": _EMULATOR_KEY,
            "endpoint": f"http://127.0.0.1:10000/{_EMULATOR_ACCOUNT}",
        }
    found = {
        "account_name": parts.get("accountname", "") or _name_in(parts.get("blobendpoint", "")),
        "account_key": parts.get("accountkey", ""),
        "sas_token": parts.get("sharedaccesssignature", ""),
        "endpoint": parts.get("blobendpoint", ""),
        "endpoint_suffix": parts.get("endpointsuffix", ""),
    }
    if not found["account_name"]:
        raise CredentialsError("the connection string names no account")
    return {name: value for name, value in found.items() if value}


def _name_in(endpoint: str) -> str:
    """`account` of `https://account.blob.core.windows.net`, or an empty text."""
    match = re.match(r"https?://([a-z0-9]{3,24})\.blob\.", endpoint)
    return match[1] if match else ""
