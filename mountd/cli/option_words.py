"""Options, in words: what `mountd mount --help` and docs/config-reference.md say of each."""

from dataclasses import MISSING, fields

from mountd.config import MIB, Settings
from mountd.config.options import OPTIONS

# Where the default is no constant, or another for some remotes.
_SAID = {
    "cache_dir": "/var/cache/mountd for root, else ~/.cache/mountd",
    "cache_size": "half of what is free on its disk",
    "uid": "who mounts",
    "gid": "who mounts",
    "metadata_ttl_s": "60, Nextcloud 10",
    "max_transfers": "16, Nextcloud 4 to 32",
    "bandwidth_up": "unlimited",
    "bandwidth_down": "unlimited",
    "endpoint": "the provider's",
    "region": "the provider's",
    "ca_file": "the system's alone",
    "metrics": "nowhere",
}


def default_of(name: str) -> str:
    """The default of option `name`, as it would be typed, or in words."""
    if name in _SAID:
        return _SAID[name]
    found = next(field.default for field in fields(Settings) if field.name == name)
    if found is MISSING or found is None:
        raise KeyError(f"say in words what {name} is where nobody gives it")
    if isinstance(found, bool):
        return str(found).lower()
    if name == "umask":
        return f"{found:03o}"
    if name == "block_size":
        return f"{int(found) // MIB}MiB"
    return f"{found:g}" if isinstance(found, float) else str(found)


def options_in_words() -> str:
    """A paragraph for each option, for --help."""
    lines = []
    for name, option in OPTIONS.items():
        lines.append(f"  {name}: {option.meaning}")
        lines.append(f"      takes {option.expects}; default: {default_of(name)}")
    return "\n".join(lines)
