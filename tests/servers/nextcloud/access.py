"""Who is asking: Basic with the password or an app password, or Bearer; and wrong ones counted."""

import base64
import binascii
import json
import secrets
from urllib.parse import parse_qs

from tests.servers.nextcloud.refusals import refused
from tests.servers.nextcloud.service import Account, LoginFlow, Service
from tests.servers.s3.message import Request, Response, S3Error

MAX_SLEEP_MS = 25_000.0


def account_of(service: Service, request: Request) -> Account:
    """The account that signed in. Raises 401; a wrong password is counted, no password is not."""
    found = find_account(service, request)
    if found is None:
        error = refused(401, "No public access to this resource., No 'Authorization: Basic' header")
        error.headers["WWW-Authenticate"] = 'Basic realm="Nextcloud", charset="UTF-8"'
        raise error
    return found


def find_account(service: Service, request: Request) -> Account | None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        for account in service.accounts.values():
            if given in account.bearers or given in account.app_passwords:
                return account
        raise _wrong(service)
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(given).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _wrong(service) from None
    found = service.accounts.get(name)
    if found is None or (password != found.password and password not in found.app_passwords):
        raise _wrong(service)
    return found


def _wrong(service: Service) -> S3Error:
    service.auth_failures += 1
    error = refused(401, "Username or password was incorrect")
    error.headers["WWW-Authenticate"] = 'Basic realm="Nextcloud", charset="UTF-8"'
    return error


def brute_force_sleep_s(service: Service) -> float:
    """What the server adds to each answer to a wrong password: doubled by each further one."""
    if not service.settings.brute_force_sleep_ms or not service.auth_failures:
        return 0.0
    slept_ms = service.settings.brute_force_sleep_ms * 2.0 ** min(service.auth_failures - 1, 30)
    return min(slept_ms, MAX_SLEEP_MS) / 1000


def login_flow(service: Service, request: Request, path: str, body: bytes) -> Response:
    """Login Flow v2: begin, and poll until somebody granted it (see the control path)."""
    if request.method != "POST":
        return Response(200, {"Content-Type": "text/html"}, b"<html>Grant access</html>")
    if path == "":
        flow = LoginFlow(secrets.token_hex(64), secrets.token_hex(64))
        service.flows.append(flow)
        base = service.base_url()
        return json_response(
            {
                "poll": {"token": flow.poll_token, "endpoint": f"{base}/index.php/login/v2/poll"},
                "login": f"{base}/index.php/login/v2/flow/{flow.flow_token}",
            }
        )
    token = parse_qs(body.decode("latin-1")).get("token", [""])[0]
    for flow in service.flows:
        if flow.poll_token == token and flow.user:
            service.flows.remove(flow)
            granted = {
                "server": service.base_url(),
                "loginName": flow.user,
                "appPassword": flow.app_password,
            }
            return json_response(granted)
    return json_response([], 404)


def grant(service: Service, user: str) -> str:
    """What a person does in the browser: all flows under way are granted to `user`."""
    password = "-".join(secrets.token_hex(3)[:5] for _ in range(5))
    service.accounts[user].app_passwords.add(password)
    for flow in service.flows:
        flow.user, flow.app_password = user, password
    return password


def json_response(value: object, status: int = 200) -> Response:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Response(status, headers, json.dumps(value).encode())
