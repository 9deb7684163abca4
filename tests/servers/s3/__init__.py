"""A strict, fast, scriptable S3 server: test equipment, and the benchmark's server.

One process, one thread, one hand-written epoll loop; files leave through sendfile. On 2 cores
shared with the client: 2 GiB/s of 8 MiB ranges, 4,000 GETs of 100 KB per second (0.12 ms of server
CPU each; the client is the limit), 10,000 keys listed in 0.05 s, 1,000,000 objects seeded in 3.5 s
(550 MB of memory). Uploads of 16 MiB: 250 MB/s with everything verified, 1.2 GB/s unsigned with the
knob `opaque_etag`.

    from tests.servers.s3.launch import S3Server

    with S3Server() as server:                       # or the fixture `s3_server` of fixtures.py
        server.seed("b", prefix="data/", directories=10, files=500, size=100_000)
        server.seed("b", keys=["big"], size=6 * 10**12)      # synthetic, needs no disk
        server.put("b", "a.txt", b"hello", mtime_s=1.7e9)    # also a foreign change
        ... S3Store("b", endpoint=server.endpoint, access_key_id=server.access_key, ...)

What a seeded object holds: `seeding.synthetic_bytes(key, start, end)` (another `seed=` is another
version). `read`, `delete`, `keys`, `serve_files` (a local directory) act behind the protocol, too.

Knobs hold for every request until changed; rules are for the requests that match (see
`knobs.Effects` for everything that can go wrong, `knobs.Rule` for the criteria):

    server.set_knobs(latency_ms=30, bandwidth_bytes_s=100_000_000)
    server.faults({"op": "GetObject", "prefix": "data/", "skip": 2, "times": 1, "status": 503,
                   "retry_after_s": 1})              # the third such GET
    server.faults({"method": "GET", "key": r"\\.bin$", "cut_after_bytes": 1000})
    server.faults({"op": "ListObjectsV2", "hold": True})     # waits until server.release()
    server.faults({"method": "PUT", "times": 1, "lose_reply": True})
    server.set_knobs(token_expired=True, page_size=7, ignore_conditionals=True)
    server.refuse_connections(for_s=2.0); server.accept_connections()
    server.clear_faults(); server.reset()

A status ordered by a knob answers before the signature is looked at. Later rules win where two
match; every matching rule counts.

    server.clear_log()
    ... the work ...
    gets = server.log(op="GetObject", prefix="data/")        # LogEntry: key, range, status, bytes
    server.wait_for_requests(3, op="GetObject")              # instead of a sleep
    server.cpu_seconds(), server.stats()

Other processes: `python -m tests.servers.s3 --port 0` prints `{"port": ..., "control_port": ...}`
when it is ready; POST JSON to `http://127.0.0.1:PORT/_control/ACTION` (see `control.Control`).

Not here, and answered 501: versioning, ACLs, tagging, lifecycle, SSE, partNumber reads, S3 Select.
Addressing is path-style. The region is enforced (`region=""` accepts any).
"""
