"""What the launchers of the WebDAV servers have in common."""

from dataclasses import dataclass
from pathlib import Path

USER = "tester"
PASSWORD = "correct horse"


@dataclass(frozen=True, slots=True)
class DavServer:
    """A running server: `url` (http, no slash at the end) shows the directory `files`."""

    url: str
    files: Path

    @property
    def authority(self) -> str:
        return self.url.removeprefix("http://")
