"""Where the units of `systemd/` keep things, for whoever looks for their daemons and queues.

The same paths stand in systemd/mountd@.service and systemd/mountd.tmpfiles.conf.
"""

from pathlib import Path

# Not /run/mountd, which is root's own: a daemon refuses a directory of another user.
RUNTIME_DIR = Path("/run/mountd-service")
# Not /var/cache: what is not sent yet is in it, and `systemctl clean` empties a unit's cache.
CACHE_DIR = Path("/var/lib/mountd")
