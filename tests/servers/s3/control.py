"""The side path `/_control/...`: JSON in, JSON out, no signature, never logged, never spoilt.

It answers on the S3 port and, also while that one is closed, on a port of its own.
"""

import gc
import json
import os
import resource
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from time import time
from typing import Any, Protocol

from tests.servers.s3.bodies import Body, Extent, FileSource, body_of_bytes
from tests.servers.s3.knobs import rule_of
from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.seeding import SeedPlan, seed_bucket
from tests.servers.s3.service import Service
from tests.servers.s3.sigv4 import Credentials
from tests.servers.s3.store import StoredObject

Json = Any


class Port(Protocol):
    """The S3 port, as the control path may act on it."""

    @property
    def connection_count(self) -> int: ...

    def shut(self, *, drop: bool, for_s: float | None) -> None: ...

    def reopen(self) -> None: ...

    def drop_connections(self) -> None: ...


class Control:
    def __init__(self, service: Service, port: Port) -> None:
        self._service = service
        self._port = port
        self.held: list[Callable[[], None]] = []
        self._actions: dict[str, Callable[[Json], Json]] = {
            "ping": lambda spec: {"ok": True},
            "knobs": self._knobs,
            "rules": self._rules,
            "release": self._release,
            "log": self._log,
            "clear_log": self._clear_log,
            "stats": self._stats,
            "seed": self._seed,
            "files": self._files,
            "keys": self._keys,
            "listen": self._listen,
            "credentials": self._credentials,
            "reset": self._reset,
        }

    def answer(self, request: Request, body: bytes) -> Response:
        name = request.key
        if name == "object":
            return self._object(request, body)
        action = self._actions.get(name)
        if action is None:
            return _json({"error": f"no such control: {name}"}, 404)
        try:
            spec = json.loads(body) if body else {}
            return _json(action(spec))
        except (TypeError, ValueError, KeyError) as error:
            return _json({"error": f"{type(error).__name__}: {error}"}, 400)

    def _knobs(self, spec: Json) -> Json:
        self._service.knobs.set_base(spec)
        return {}

    def _rules(self, spec: Json) -> Json:
        rules = [rule_of(each) for each in spec["rules"]]
        knobs = self._service.knobs
        knobs.rules = rules if spec.get("replace") else knobs.rules + rules
        return {"rules": len(knobs.rules)}

    def _release(self, spec: Json) -> Json:
        held, self.held = self.held, []
        for resume in held:
            resume()
        return {"released": len(held)}

    def _log(self, spec: Json) -> Json:
        wanted = {name: spec[name] for name in ("method", "op", "bucket") if spec.get(name)}
        prefix = spec.get("prefix", "")
        return [
            record.as_dict()
            for record in self._service.log.records
            if all(getattr(record, name) == value for name, value in wanted.items())
            and record.key.startswith(prefix)
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
            "held": len(self.held),
            "requests": len(self._service.log.records),
            "objects": sum(map(len, self._service.store.buckets.values())),
        }

    def _seed(self, spec: Json) -> Json:
        plan = SeedPlan(**(spec | {"keys": tuple(spec.get("keys", ()))}))
        bucket = self._service.store.ensure(plan.bucket)
        count = seed_bucket(bucket, plan, self._service.pattern)
        gc.freeze()
        return {"objects": count}

    def _files(self, spec: Json) -> Json:
        """Serves the files below a directory of this machine, by sendfile."""
        bucket = self._service.store.ensure(spec["bucket"])
        root = Path(spec["directory"])
        found = 0
        for folder, _folders, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                facts = path.stat()
                body = Body((Extent(FileSource(path), 0, facts.st_size),))
                # "-1": no MD5 of the body, see seeding.synthetic_etag.
                etag = md5(f"{path}{facts.st_mtime_ns}".encode()).hexdigest() + "-1"
                key = spec.get("prefix", "") + path.relative_to(root).as_posix()
                bucket.put(key, StoredObject(body, etag, facts.st_mtime))
                found += 1
        return {"objects": found}

    def _keys(self, spec: Json) -> Json:
        return list(self._service.store.ensure(spec["bucket"]).keys())

    def _listen(self, spec: Json) -> Json:
        if spec.get("open", True):
            self._port.reopen()
        else:
            self._port.shut(drop=spec.get("drop", True), for_s=spec.get("for_s"))
        return {}

    def _credentials(self, spec: Json) -> Json:
        self._service.verifier.set_identities([Credentials(**each) for each in spec["identities"]])
        return {}

    def _reset(self, spec: Json) -> Json:
        """Back to an empty, honest server; identities stay."""
        self._release({})
        self._port.reopen()
        self._service.knobs.clear()
        self._service.log.clear()
        self._service.store.buckets.clear()
        gc.unfreeze()
        gc.collect()
        return {}

    def _object(self, request: Request, body: bytes) -> Response:
        """PUT, GET and DELETE of one object behind the protocol's back: a foreign change."""
        query = request.query
        bucket = self._service.store.ensure(query["bucket"])
        key = query["key"]
        if request.method == "GET":
            stored = bucket.get(key)
            if stored is None:
                return _json({"error": "no such object"}, 404)
            return Response(200, {"ETag": stored.etag, **stored.headers}, stored.body)
        if request.method == "DELETE":
            return _json({"deleted": bucket.delete(key)})
        if request.method != "PUT":
            raise S3Error(405, "MethodNotAllowed")
        etag = query.get("etag") or md5(body).hexdigest()
        mtime_s = float(query["mtime_s"]) if "mtime_s" in query else time()
        headers = {"Content-Type": "binary/octet-stream"}
        headers |= json.loads(query.get("headers", "{}"))
        bucket.put(key, StoredObject(body_of_bytes(body), etag, mtime_s, headers))
        return _json({"etag": etag})


def _json(value: Json, status: int = 200) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
