"""A Nextcloud-shaped server, as strict and as lax as the real one: scriptable, fast, in a process.

The frame (loop, connections, bodies, knobs) is that of `tests.servers.s3`; see there for what the
knobs do. Refusals, their order and odd answers are SabreDAV's and Nextcloud's, each measured
on a running Nextcloud or read in its source.

    from tests.servers.nextcloud.launch import NextcloudServer

    with NextcloudServer() as server:            # or the fixture `nextcloud_server` of fixtures.py
        server.put("docs/a.txt", b"hello")       # a foreign change: new ETags up to the root
        server.seed("data", directories=200, files=10, size=20_000)
        ... f"nextcloud://{server.authority}", server.user, server.password ...

What is set up, and what is there:

    server.configure(chunking="", bulkupload="", quota_bytes=10**6, files_lock=True,
                     version="24.0.5.1", maintenance=True)
    server.configure(notify_push=True)           # a websocket says notify_file at each change
    server.configure(stat_etags=False)           # as on object storage: a new ETag for each write
    server.configure(assembly_s=2.0, gateway_timeout_s=0.5)    # 504, then 423, then done
    server.mount("ext", "external")              # changes in it give no folder a new ETag
    server.deny("readonly", "WCKDNV"); server.lock("a.txt", "bob", owner_name="Bob B.")
    server.expire_uploads(); server.revoke_logins(); server.grant_logins()

What goes wrong, by operation (places.operation_name: Propfind, Get, Put, Mkcol, Delete, Move, Copy,
Proppatch, MakeUpload, PutChunk, Assemble, ListUpload, AbortUpload, Bulk, Capabilities, User,
Status, Login, LoginPoll, TrashPropfind, ...) and by the path in the tree:

    server.set_knobs(latency_ms=30, bandwidth_bytes_s=100_000_000)
    server.faults({"op": "Assemble", "times": 1, "status": 423})
    server.faults({"op": "PutChunk", "path": "00003$", "times": 1, "cut_upload_after": 1000})
    server.faults({"op": "Put", "times": 1, "lose_reply": True})      # done, and nobody hears of it
    server.faults({"op": "Propfind", "skip": 2, "times": 1, "status": 503, "retry_after_s": 1})
    server.faults({"op": "Get", "hold": True}); server.release()

What was asked:

    server.clear_log()
    server.log(op="Propfind")                    # LogEntry: path, status, bytes, headers
    server.wait_for_requests(3, op="PutChunk"); server.auth_failures()

An ordered status answers before the password is looked at. Other processes:
`python -m tests.servers.nextcloud` prints its ports; POST JSON to `/_control/ACTION`.
"""
