"""doctor's checks of one SOURCE: credentials, the way to its host, its clock, a first page."""

import http.client
import os
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from mountd.cli.bounded import bounded
from mountd.cli.findings import Finding, ok, problem, warning
from mountd.cli.remotes import check_store
from mountd.config import Settings
from mountd.config.credentials import has_s3_keys, is_anonymous
from mountd.config.file import ConfigFile
from mountd.config.load import reach_of, read_command_line, resolve_source
from mountd.config.source import Source
from mountd.errors import ExitCode, UsageError
from mountd.manifest import read_manifest
from mountd.remotes.aws_profile import configured_endpoint, profile_named
from mountd.remotes.plain_http import LookingSocket, SpeaksPlainHttp
from mountd.remotes.tls import VERIFIED, Tls, tls_of, why_not_trusted

_CONNECT_TIMEOUT_S = 5.0
_MOST_LOCATIONS = 8  # of a manifest: each takes its time where it does not answer
_LIST_TIMEOUT_S = 20.0
_SKEW_WARNING_S = 60.0
_SKEW_PROBLEM_S = 900.0  # S3 refuses signatures older than 15 minutes (RequestTimeTooSkewed)
_SLOW_FIRST_BYTE_S = 1.0
_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_NO_NETWORK = frozenset(("file", "memory"))

_VARIABLES = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT"),
    "az": (
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_CLIENT_ID",
    ),
}
_FILES = {
    "s3": ("~/.aws/credentials", "~/.aws/config"),
    "gs": ("~/.config/gcloud/application_default_credentials.json",),
    "az": ("~/.azure/msal_token_cache.json",),
}


def check_source(
    text: str, config: ConfigFile, options: Sequence[str]
) -> tuple[list[Finding], ExitCode]:
    """The findings, and the exit code that a mount of this SOURCE would end with."""
    try:
        source, settings = resolve_source(text, config, read_command_line(options))
    except UsageError as error:
        return [problem("SOURCE", str(error), "mend SOURCE, the option or the config file")], (
            ExitCode.USAGE
        )
    if source.scheme == "manifest":
        return _check_manifest(source, config, options)
    return _check_remote(source, settings)


def _check_manifest(
    source: Source, config: ConfigFile, options: Sequence[str]
) -> tuple[list[Finding], ExitCode]:
    """What it says, and each place that its files live at."""
    reach = reach_of(source, config, read_command_line(options))
    assert reach is not None
    try:
        manifest = read_manifest(Path("/" + source.prefix))
        reached = [reach(location) for location in manifest.locations[:_MOST_LOCATIONS]]
    except UsageError as error:
        fix = "mend the manifest, or write the location as a remote of the config file"
        return [problem("manifest", str(error), fix)], ExitCode.USAGE
    what = f"{len(manifest.files)} files at {len(manifest.locations)} locations"
    findings, codes = [ok("manifest", what)], list[ExitCode]()
    for place, settings in reached:
        found, code = _check_remote(place, settings)
        findings += found
        codes.append(code)
    return findings, next((code for code in codes if code), ExitCode.OK)


def _check_remote(source: Source, settings: Settings) -> tuple[list[Finding], ExitCode]:
    settings = replace(settings, request_timeout_s=min(settings.request_timeout_s, _LIST_TIMEOUT_S))
    findings = [check_credentials(source, settings)]
    if source.scheme not in _NO_NETWORK:
        findings += check_way(endpoint_of(source, settings), tls_of(settings))
    try:
        listing = bounded(lambda: check_store(source, settings), _LIST_TIMEOUT_S + 5)
    except TimeoutError as error:
        fix = "see the way to the host above; if it is well, the service is slow"
        return [*findings, problem("listing", str(error), fix)], ExitCode.UNREACHABLE
    if listing.exit_code is ExitCode.OK:
        say = _slow if listing.took_s > _SLOW_FIRST_BYTE_S else ok
        return [*findings, say("listing", f"{source.text}: {listing.reason}")], ExitCode.OK
    fixes = {
        ExitCode.CREDENTIALS: "check the credentials and what they may list",
        ExitCode.UNREACHABLE: "check the bucket's name, the endpoint and the network",
    }
    fix = fixes.get(listing.exit_code, "see the message")
    found = f"{source.text}: {listing.state}: {listing.reason}"
    return [*findings, problem("listing", found, fix)], listing.exit_code


def check_credentials(source: Source, settings: Settings) -> Finding:
    """Where credentials are, by name; never what they are."""
    own = ", ".join(sorted(settings.credentials))
    places = [f"{own} (by option, config file, rclone.conf, MOUNTD_* or mountd login)"] * bool(own)
    places += [f"${name}" for name in _VARIABLES.get(source.scheme, ()) if os.environ.get(name)]
    places += [name for name in _FILES.get(source.scheme, ()) if Path(name).expanduser().is_file()]
    if places or source.scheme in _NO_NETWORK:
        return ok("credentials", ", ".join(places) or "none needed")
    first = (_VARIABLES.get(source.scheme) or ("MOUNTD_USER and MOUNTD_PASSWORD_FILE",))[0]
    return warning(
        "credentials",
        "none found here; only what is public, or what the machine's own role gives, can be read",
        f"set {first}, or write them into the config file",
    )


def endpoint_of(source: Source, settings: Settings) -> str:
    """The URL whose host will be asked; "" where only the store knows."""
    if settings.endpoint:
        return settings.endpoint
    host = source.authority
    match source.scheme:
        case "s3":
            region = settings.region or os.environ.get("AWS_REGION", "")
            named = next((os.environ[n] for n in _S3_ENDPOINTS if os.environ.get(n)), "")
            given = settings.credentials
            if not named and not (is_anonymous(given) or has_s3_keys(given)):
                profile = profile_named(given.get("profile", ""), os.environ)
                named = configured_endpoint(profile, os.environ)
            return named or f"https://s3.{region + '.' if region else ''}amazonaws.com"
        case "gs":
            return os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
        case "az":
            account = settings.credentials.get("account_name") or os.environ.get(
                "AZURE_STORAGE_ACCOUNT_NAME", ""
            )
            return f"https://{account}.blob.core.windows.net" if account else ""
        case "webdav+http" | "http":
            return f"http://{host}"
        case "webdav" | "nextcloud" | "https":
            return f"https://{host}"
    return ""


def check_way(url: str, tls: Tls = VERIFIED) -> list[Finding]:
    """Name, connection, TLS, time to the first byte, and the clock of the host behind `url`."""
    if not url:
        return []
    proxy = next((n for n in ("HTTPS_PROXY", "https_proxy") if os.environ.get(n)), None)
    if proxy:
        return [ok("network", f"${proxy} is set; the way to {url} is not tried directly")]
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        bounded(lambda: socket.getaddrinfo(host, port), _CONNECT_TIMEOUT_S)
    except (OSError, UnicodeError) as error:
        fix = "check the host's name, endpoint and the DNS of this machine or container"
        return [problem("DNS", f"{host}: {_reason(error)}", fix)]
    try:
        return bounded(lambda: _ask(host, port, tls if secure else None), 3 * _CONNECT_TIMEOUT_S)
    except SpeaksPlainHttp as error:
        why, _, fix = str(error).partition("; ")
        return [problem("TLS", f"{host}:{port}: {why}", fix)]
    except ssl.SSLError as error:
        why, _, fix = why_not_trusted(error).partition("; ")
        fix = fix or "check the endpoint's https; a CA of your own: ca_file=/PATH/CA.pem"
        return [problem("TLS", f"{host}:{port}: {why or _reason(error)}", fix)]
    except (OSError, http.client.HTTPException) as error:
        fix = "check host, port, firewall and proxy"
        return [problem("connection", f"{host}:{port}: {_reason(error)}", fix)]


def _ask(host: str, port: int, tls: Tls | None) -> list[Finding]:
    """Any HTTP answer will do, a 403 too: no credentials are sent."""
    connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_TIMEOUT_S)
    if tls is not None:
        context = tls.context()
        context.sslsocket_class = LookingSocket
        connection = http.client.HTTPSConnection(
            host, port, timeout=_CONNECT_TIMEOUT_S, context=context
        )
    try:
        start = time.monotonic()
        connection.connect()
        connected_s = time.monotonic() - start
        start = time.monotonic()
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
        first_byte_s = time.monotonic() - start
    finally:
        connection.close()
    found = (
        f"{host}:{port} in {connected_s * 1000:.0f} ms, first byte in {first_byte_s * 1000:.0f} ms"
    )
    say = _slow if first_byte_s > _SLOW_FIRST_BYTE_S else ok
    return [say("connection", found), *check_clock(date, datetime.now(UTC))]


def check_clock(date: str | None, now: datetime) -> list[Finding]:
    """Our clock against the answer's Date. Signed requests fail when they differ by much."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return []
    skew_s = abs((now - theirs.replace(tzinfo=theirs.tzinfo or UTC)).total_seconds())
    fix = "set the clock: timedatectl set-ntp true"
    if skew_s >= _SKEW_PROBLEM_S:
        return [problem("clock", f"{skew_s:.0f} s off; signed requests are refused", fix)]
    if skew_s >= _SKEW_WARNING_S:
        return [warning("clock", f"{skew_s:.0f} s off", fix)]
    return [ok("clock", f"within {max(skew_s, 1):.0f} s of the remote's")]


def _slow(check: str, found: str) -> Finding:
    return warning(check, found, "use a nearer region or endpoint; mountd hides some of it")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
