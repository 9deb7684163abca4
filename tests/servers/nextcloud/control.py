"""The side path `/_control/...`: JSON in, JSON out, no password, never logged, never spoilt."""

import gc
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tests.servers.nextcloud.access import grant
from tests.servers.nextcloud.names import normal
from tests.servers.nextcloud.properties import oc_id
from tests.servers.nextcloud.service import Account, Service
from tests.servers.nextcloud.settings import Settings, as_json, changed
from tests.servers.nextcloud.tree import Node, UserLock
from tests.servers.nextcloud.writing import remove
from tests.servers.s3.bodies import Body, Extent, FileSource, body_of_bytes
from tests.servers.s3.knobs import rule_of
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.seeding import pattern_offset

Json = Any


class Port(Protocol):
    """The port of the service, as the control path may act on it."""

    @property
    def connection_count(self) -> int: ...

    def shut(self, *, drop: bool, for_s: float | None) -> None: ...

    def reopen(self) -> None: ...


class Control:
    def __init__(self, service: Service, port: Port, push: Port) -> None:
        self._service = service
        self._port = port
        self._push = push
        self.held: list[Callable[[], None]] = []
        self._actions: dict[str, Callable[[Json], Json]] = {
            "ping": lambda spec: {"ok": True},
            "knobs": self._knobs,
            "rules": self._rules,
            "release": self._release,
            "log": self._log,
            "clear_log": self._clear_log,
            "stats": self._stats,
            "settings": self._settings,
            "account": self._account,
            "grant": lambda spec: {"password": grant(self._service, spec["user"])},
            "auth": self._auth,
            "seed": self._seed,
            "files": self._files,
            "tree": self._tree,
            "node": self._node,
            "mount": self._mount,
            "deny": self._deny,
            "lock": self._lock,
            "mkdir": self._mkdir,
            "delete": self._delete,
            "move": self._move,
            "uploads": self._uploads,
            "expire_uploads": self._expire_uploads,
            "trash": self._trash,
            "listen": self._listen,
            "reset": self._reset,
        }

    def answer(self, request: Request, body: bytes) -> Response:
        name = request.key
        try:
            if name == "file":
                return self._file(request, body)
            action = self._actions.get(name)
            if action is None:
                return _json({"error": f"no such control: {name}"}, 404)
            return _json(action(json.loads(body) if body else {}))
        except (TypeError, ValueError, KeyError) as error:
            return _json({"error": f"{type(error).__name__}: {error}"}, 400)
        except S3Error as error:
            return _json({"error": error.message}, 400)

    def _who(self, spec: Json) -> Account:
        return self._service.accounts[spec["user"]]

    # The server

    def _knobs(self, spec: Json) -> Json:
        self._service.knobs.set_base(spec)
        return {}

    def _rules(self, spec: Json) -> Json:
        given = [
            {
                {"tree": "bucket", "path": "key"}.get(name, name): value
                for name, value in rule.items()
            }
            for rule in spec["rules"]
        ]
        rules = [rule_of(each) for each in given]
        knobs = self._service.knobs
        knobs.rules = rules if spec.get("replace") else knobs.rules + rules
        return {"rules": len(knobs.rules)}

    def _release(self, spec: Json) -> Json:
        held, self.held = self.held, []
        for resume in held:
            resume()
        return {"released": len(held)}

    def _log(self, spec: Json) -> Json:
        wanted = {name: spec[name] for name in ("method", "op", "tree") if spec.get(name)}
        prefix = spec.get("prefix", "")
        return [
            record.as_dict()
            for record in self._service.log
            if all(getattr(record, name) == value for name, value in wanted.items())
            and record.path.startswith(prefix)
        ]

    def _clear_log(self, spec: Json) -> Json:
        self._service.log.clear()
        return {}

    def _stats(self, spec: Json) -> Json:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "spool_bytes": self._service.spool.used_bytes(),
            "connections": self._port.connection_count,
            "push_connections": self._push.connection_count,
            "held": len(self.held),
            "requests": len(self._service.log),
            "auth_failures": self._service.auth_failures,
        }

    def _settings(self, spec: Json) -> Json:
        self._service.configure(changed(self._service.settings, spec))
        return as_json(self._service.settings)

    def _listen(self, spec: Json) -> Json:
        port = self._push if spec.get("push") else self._port
        if spec.get("open", True):
            port.reopen()
        else:
            port.shut(drop=spec.get("drop", True), for_s=spec.get("for_s"))
        return {}

    def _reset(self, spec: Json) -> Json:
        """Back to an empty, honest server with the one account that is given."""
        self._release({})
        self._port.reopen()
        self._push.shut(drop=True, for_s=None)
        self._push.reopen()
        service = self._service
        service.knobs.clear()
        service.log.clear()
        service.configure(Settings())
        service.flows.clear()
        service.auth_failures = 0
        service.accounts.clear()
        gc.unfreeze()
        gc.collect()
        return self._account(spec)

    # Who

    def _account(self, spec: Json) -> Json:
        service = self._service
        account = service.accounts.get(spec["user"])
        if account is None:
            account = service.add_account(spec["user"], spec["password"])
        account.password = spec.get("password", account.password)
        account.display_name = spec.get("display_name", account.display_name)
        account.bearers |= set(spec.get("bearers", ()))
        return {}

    def _auth(self, spec: Json) -> Json:
        """`revoke`: all app passwords and bearer tokens of a user are void."""
        if "revoke" in spec:
            account = self._service.accounts[spec["revoke"]]
            account.app_passwords.clear()
            account.bearers.clear()
        return {"failures": self._service.auth_failures}

    # Files, behind the protocol's back

    def _file(self, request: Request, body: bytes) -> Response:
        """GET and PUT of one file: a foreign change."""
        query = request.query
        account = self._service.accounts[query["user"]]
        tree = account.tree
        path = normal(query["path"].strip("/"))
        if request.method == "GET":
            return Response(200, {}, tree.require(path).body)
        folder = tree.make_folders(path.rpartition("/")[0])
        mtime_s = int(float(query["mtime_s"])) if "mtime_s" in query else None
        node = tree.write(folder, path.rpartition("/")[2], body_of_bytes(body), mtime_s)
        node.checksum = query.get("checksum", "")
        self._service.announce(account.user, [node.id])
        return _json(_facts(node))

    def _seed(self, spec: Json) -> Json:
        """Synthetic files: `directories` x `files` of `size` bytes below `path`."""
        tree = self._who(spec).tree
        top = tree.make_folders(spec.get("path", "").strip("/"))
        size, seed = spec.get("size", 0), spec.get("seed", 0)
        mtime_s = int(spec.get("mtime_s", time.time()))
        number_of_folders = spec.get("directories", 0)
        made = 0
        folders = [top]
        if number_of_folders:
            names = [f"d{number:05d}" for number in range(number_of_folders)]
            folders = [top.entries().get(name) or tree.make_folder(top, name) for name in names]
        for folder in folders:
            base = folder.path()
            for number in range(spec.get("files", 0)):
                name = f"f{number:06d}.bin"
                key = f"{base}/{name}" if base else name
                start = pattern_offset(key, seed)
                body = Body((Extent(self._service.pattern, start, size),))
                tree.write(folder, name, body, mtime_s)
                made += 1
        for path in spec.get("paths", ()):
            folder = tree.make_folders(path.rpartition("/")[0])
            body = Body((Extent(self._service.pattern, pattern_offset(path, seed), size),))
            tree.write(folder, path.rpartition("/")[2], body, mtime_s)
            made += 1
        gc.freeze()
        return {"files": made}

    def _files(self, spec: Json) -> Json:
        """Serves the files below a directory of this machine, by sendfile."""
        tree = self._who(spec).tree
        root = Path(spec["directory"])
        found = 0
        for where, _folders, names in os.walk(root):
            inner = Path(where).relative_to(root).as_posix()
            path = "/".join(
                each for each in (spec.get("path", "").strip("/"), inner) if each not in ("", ".")
            )
            folder = tree.make_folders(normal(path))
            for name in names:
                facts = Path(where, name).stat()
                body = Body((Extent(FileSource(Path(where, name)), 0, facts.st_size),))
                tree.write(folder, normal(name), body, int(facts.st_mtime))
                found += 1
        return {"files": found}

    def _tree(self, spec: Json) -> Json:
        """Every path but the root; those of folders with a slash at the end."""
        nodes = self._who(spec).tree.root.walk()
        return [node.path() + ("/" if node.is_folder else "") for node in nodes if node.parent]

    def _node(self, spec: Json) -> Json:
        node = self._who(spec).tree.find(normal(spec["path"].strip("/")))
        return None if node is None else _facts(node)

    def _mount(self, spec: Json) -> Json:
        node = self._who(spec).tree.make_folders(spec["path"].strip("/"))
        node.mount_type = spec["type"]
        node.propagates = spec.get("propagates", False)
        return _facts(node)

    def _deny(self, spec: Json) -> Json:
        node = self._who(spec).tree.require(spec["path"].strip("/"))
        node.denied = spec["letters"]
        self._who(spec).tree.changed(node)
        return {}

    def _lock(self, spec: Json) -> Json:
        node = self._who(spec).tree.require(spec["path"].strip("/"))
        owner = spec.get("owner")
        node.lock = UserLock(owner, spec.get("owner_name", owner), 0) if owner else None
        return {}

    def _mkdir(self, spec: Json) -> Json:
        return _facts(self._who(spec).tree.make_folders(normal(spec["path"].strip("/"))))

    def _delete(self, spec: Json) -> Json:
        account = self._who(spec)
        node = account.tree.require(normal(spec["path"].strip("/")))
        remove(self._service, account, node)
        self._service.announce(account.user, [node.id])
        return {}

    def _move(self, spec: Json) -> Json:
        account = self._who(spec)
        node = account.tree.require(normal(spec["path"].strip("/")))
        parent, name = account.tree.parent_of(normal(spec["to"].strip("/")))
        account.tree.detach(node)
        account.tree.attach(node, parent, name)
        self._service.announce(account.user, [node.id])
        return _facts(node)

    def _uploads(self, spec: Json) -> Json:
        return {
            upload.name: {
                "chunks": {name: chunk.body.size for name, chunk in sorted(upload.chunks.items())},
                "destination": upload.destination,
                "assembling": upload.assembling,
            }
            for upload in self._who(spec).uploads.values()
        }

    def _expire_uploads(self, spec: Json) -> Json:
        uploads = self._who(spec).uploads
        count = len(uploads)
        uploads.clear()
        return {"expired": count}

    def _trash(self, spec: Json) -> Json:
        return [
            {"name": each.name, "original": each.original, "fileid": each.node.id}
            for each in self._who(spec).trash.values()
        ]


def _facts(node: Node) -> Json:
    return {
        "fileid": node.id,
        "oc_id": oc_id(node),
        "etag": node.etag,
        "size": node.size,
        "mtime_s": node.mtime_s,
        "checksum": node.checksum,
        "folder": node.is_folder,
    }


def _json(value: Json, status: int = 200) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
