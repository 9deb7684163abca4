"""What a daemon runs beside the walks of a read, a write and an upload: daemon.py builds it."""
