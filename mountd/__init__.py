"""mountd: remote buckets and WebDAV accounts as an ordinary folder."""

__version__ = "0.1.0"
