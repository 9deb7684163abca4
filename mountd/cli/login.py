"""`mountd login nextcloud HOST`: a sign-in by browser, stored for `mountd mount`."""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mountd.cli.arguments import Parser, seconds
from mountd.cli.output import print_line, printable, warn
from mountd.config.load import read_command_line, read_environment
from mountd.config.logins import Login, logins_dir, save, server_of
from mountd.config.source import parse_source
from mountd.errors import CredentialsError, ExitCode, UsageError
from mountd.remotes.tls import VERIFIED, Tls, make_tls

_WITHIN_S = 20 * 60.0  # what a Nextcloud gives the user, too
_POLL_EVERY_S = 1.0


def run(arguments: Sequence[str]) -> int:
    """0 when the sign-in is stored; 3 where nobody granted it in time."""
    parser = Parser("login", "Signs in by browser; `mountd mount` then needs no password.")
    parser.add_argument("kind", metavar="nextcloud", help="the only kind that knows this")
    parser.add_argument("host", metavar="HOST", help="cloud.example.org, or its URL with a folder")
    parser.add_options()
    parser.add_argument("--no-browser", action="store_true", help="only print the page's URL")
    parser.add_argument(
        "--timeout", type=seconds, default=_WITHIN_S, metavar="SECONDS", help="default: 1200"
    )
    parser.add_argument("--json", action="store_true", help="one object when it is done")
    parsed = parser.read(arguments)
    if parsed.kind != "nextcloud":
        parser.error(f"{parsed.kind!r} has no sign-in by browser; only nextcloud has one")
    options = read_environment(os.environ) | dict(read_command_line(parsed.options).options)
    server = server_named(parsed.host, _endpoint(options))
    login = sign_in(
        server,
        lambda url: _show(url, server, browser=not parsed.no_browser, as_json=parsed.json),
        parsed.timeout,
        tls=_tls(options),
    )
    path = save(login, logins_dir())
    if parsed.json:
        told = {"server": login.server, "user": login.user, "file": str(path)}
        print(json.dumps(told))
    else:
        print_line(f"signed in to {login.server} as {login.user}; the app password is in {path}")
        print_line(f"mount it: mountd mount {_source(login)}{_also(options)} /storage")
    return ExitCode.OK


def server_named(host: str, endpoint: str | None) -> str:
    """The server's URL. Raises UsageError, also for http:// that nobody has insisted on."""
    if endpoint:
        return server_of("", endpoint)
    scheme, colon, rest = host.partition("://")
    if colon and scheme == "http":
        raise UsageError(
            f"{host} would send the password readable by everybody on the way; if that is what you "
            f"want: mountd login nextcloud {rest.partition('/')[0]} -o endpoint={host}"
        )
    if colon and scheme == "https":
        parsed = parse_source(f"webdav://{rest}")
    else:
        parsed = parse_source(host if colon else f"nextcloud://{host}")
        if parsed.scheme != "nextcloud" or parsed.prefix:
            raise UsageError(f"{host} is no host; write cloud.example.org or https://HOST/FOLDER")
    return server_of("", f"https://{parsed.authority}/{parsed.prefix}")


def sign_in(
    server: str,
    show: Callable[[str], None],
    within_s: float,
    *,
    tls: Tls = VERIFIED,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Login:
    """Shows the page, and waits until somebody granted it there. Raises RemoteError, and
    CredentialsError after `within_s`; an interrupt leaves nothing behind."""
    from mountd.remotes.nextcloud_login import LoginFlow

    flow = LoginFlow(server, f"mountd ({socket.gethostname()})", tls)
    try:
        show(flow.begin())
        until_s = clock() + within_s
        while (granted := flow.poll()) is None:
            if clock() >= until_s:
                raise CredentialsError(f"nobody granted the sign-in to {server} in time")
            sleep(_POLL_EVERY_S)
    finally:
        flow.close()
    named = server_of("", granted.server) if granted.server else ""
    if named != server:
        warn(f"{server} calls itself {printable(named) or 'nothing'}; mounts go on asking {server}")
    return Login(server, granted.user, granted.login_name, granted.password)


def _endpoint(options: Mapping[str, object]) -> str | None:
    endpoint = options.get("endpoint")
    return endpoint if isinstance(endpoint, str) else None


def _tls(options: Mapping[str, object]) -> Tls:
    ca_file = options.get("ca_file")
    is_verified = options.get("tls_verify") is not False
    if not is_verified:
        warn("certificates are not verified: anybody on the way may be the server")
    return make_tls(ca_file if isinstance(ca_file, Path) else None, is_verified=is_verified)


def _show(url: str, server: str, *, browser: bool, as_json: bool) -> None:
    stream = sys.stderr if as_json else sys.stdout
    print(f"open this page, and grant access:\n  {printable(url)}", file=stream, flush=True)
    page, asked = urlsplit(url), urlsplit(server)
    if (page.scheme, page.netloc.lower()) != (asked.scheme, asked.netloc):
        warn(f"that page is not on {server}: look at its address before you type a password there")
    elif browser and _has_display():
        import webbrowser

        webbrowser.open(url)


def _has_display() -> bool:
    """A text browser would take the terminal."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _source(login: Login) -> str:
    parts = urlsplit(login.server)
    source = f"nextcloud://{login.user}@{parts.netloc}/"
    is_plain = parts.scheme == "https" and not parts.path
    return source if is_plain else f"{source} -o endpoint={login.server}"


def _also(options: Mapping[str, object]) -> str:
    """What the mount needs, too, to take the server for the one that it is."""
    ca_file, is_verified = options.get("ca_file"), options.get("tls_verify")
    also = f" -o ca_file={shlex.quote(str(ca_file))}" if ca_file else ""
    return f"{also} -o tls_verify=no" if is_verified is False else also
