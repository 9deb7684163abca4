"""`scripts/bench`: what mountd must reach beside `rclone mount` and s3fs-fuse, measured.

One scriptable S3 server (`tests.servers.s3`) or Nextcloud-shaped one (`tests.servers.nextcloud`),
one machine, one run; the contestants take turns in
every scenario of every round, so that a slow minute of the machine hits them all.

    readers.py       what a client program does: the same few system calls for everybody
    writers.py       the same for writing
    workers.py       forks readers, starts them together, never waits for ever
    contestants.py   how each daemon is started
    mounts.py        one daemon's life: started, mounted, measured, gone
    plan.py          what a run goes by
    stage.py         one contestant in one scenario: links, caches, and the measuring itself
    cases.py         the rows of the read side and their goals
    write_cases.py   those of the write side
    nextcloud_cases.py   those of a Nextcloud account
    rows.py          all of them
    scenarios.py     how each row of the read side is brought about
    write_scenarios.py   and of the write side
    nextcloud_scenarios.py   and of a Nextcloud account
    nextcloud_contestants.py   how each daemon is started there
    nextcloud_remote.py  its server, in S3's words
    remote.py        what is needed of a server, whichever it is
    arena.py         a server, who is measured on it, and in what
    remote_state.py  since when the server has what was written, and whether it is right
    results.py       medians, ratios, verdicts; pure
    report.py        tables for the terminal and for docs/benchmarks.md
    profiling.py     py-spy on mountd
    nginx.py         nginx in front, for rows in which our server might be the limit
    machine.py       what it ran on
"""
