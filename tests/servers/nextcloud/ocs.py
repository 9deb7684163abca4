"""/status.php and the OCS API: capabilities, and who I am."""

from typing import Any

from tests.servers.nextcloud.access import account_of, find_account, json_response
from tests.servers.nextcloud.permissions import free_bytes
from tests.servers.nextcloud.service import Service
from tests.servers.s3.message import Request, Response


def status(service: Service) -> Response:
    settings = service.settings
    return json_response(
        {
            "installed": True,
            "maintenance": settings.maintenance,
            "needsDbUpgrade": False,
            "version": settings.version,
            "versionstring": settings.version.rpartition(".")[0],
            "edition": "",
            "productname": "Nextcloud",
            "extendedSupport": False,
        }
    )


def ocs(service: Service, request: Request, path: str) -> Response:
    if request.query.get("format") != "json" and "json" not in request.headers.get("accept", ""):
        headers = {"Content-Type": "application/xml; charset=utf-8"}
        return Response(200, headers, b'<?xml version="1.0"?>\n<ocs><meta/></ocs>\n')
    if "ocs-apirequest" not in request.headers:
        return json_response({"message": "CSRF check failed"}, 412)
    if path == "cloud/capabilities":
        signed_in = find_account(service, request) is not None
        return _answer(capabilities(service, signed_in=signed_in))
    if path == "cloud/user":
        account = account_of(service, request)
        free = free_bytes(service, account.user)
        used = account.used_bytes()
        quota = {"free": free, "used": used, "quota": service.settings.quota_bytes}
        found = {"id": account.user, "displayname": account.display_name, "quota": quota}
        return _answer({"enabled": True, "display-name": account.display_name, **found})
    return _answer([], 404, "Invalid query, please check the syntax.")


def _answer(data: Any, code: int = 200, message: str = "OK") -> Response:
    meta = {"status": "ok" if code == 200 else "failure", "statuscode": code, "message": message}
    return json_response({"ocs": {"meta": meta, "data": data}}, code)


def capabilities(service: Service, *, signed_in: bool) -> dict[str, Any]:
    """As much as is said to whom: without signing in there is nothing about files."""
    settings = service.settings
    numbers = [int(each) for each in settings.version.split(".")]
    version = {
        **dict(zip(("major", "minor", "micro"), numbers, strict=False)),
        "string": ".".join(map(str, numbers[:3])),
        "edition": "",
        "extendedSupport": False,
    }
    offered: dict[str, Any] = {"bruteforce": {"delay": 0, "allow-listed": False}, "theming": {}}
    if signed_in:
        offered["core"] = {"pollinterval": 60, "webdav-root": "remote.php/webdav"}
        dav = {"chunking": settings.chunking, "bulkupload": settings.bulkupload}
        offered["dav"] = {name: value for name, value in dav.items() if value}
        if settings.checksum_types:
            offered["checksums"] = {
                "supportedTypes": list(settings.checksum_types),
                "preferredUploadType": settings.checksum_types[0],
            }
        offered["files"] = _files(service)
        if settings.notify_push:
            offered["notify_push"] = {
                "type": ["files", "activities", "notifications"],
                "endpoints": {
                    "websocket": f"ws://127.0.0.1:{service.push_port}/push/ws",
                    "pre_auth": f"{service.base_url()}/apps/notify_push/pre_auth",
                },
            }
    return {"version": version, "capabilities": offered}


def _files(service: Service) -> dict[str, Any]:
    settings = service.settings
    found: dict[str, Any] = {
        "bigfilechunking": True,
        "blacklisted_files": list(settings.forbidden_names),
        "undelete": settings.trashbin,
        "versioning": True,
    }
    if settings.release >= 30:
        found["chunked_upload"] = {
            "max_size": settings.max_chunk_bytes,
            "max_parallel_count": settings.max_parallel_chunks,
        }
        found["forbidden_filenames"] = list(settings.forbidden_names)
        found["forbidden_filename_basenames"] = list(settings.forbidden_basenames)
        found["forbidden_filename_characters"] = list(settings.forbidden_characters)
        found["forbidden_filename_extensions"] = list(settings.forbidden_extensions)
    if settings.files_lock:
        found["locking"] = "1.0"
        found["api-feature-lock-type"] = True
    return found
