"""What a fake that is only read from needs beside `stat`, `list` and `read`."""

from collections.abc import Iterator, Sequence

from mountd.errors import Unsupported
from mountd.remotes.base import Body, Identity, Upload
from mountd.types import Entry


class NoWrites:
    """The rest of `RemoteStore`: every call is Unsupported."""

    def identify(self, key: str) -> Identity:
        raise Unsupported(key)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        raise Unsupported(key)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> Entry:
        raise Unsupported(key)

    def abandon(self, key: str, token: str) -> None:
        """Nothing: no upload outlives its call here."""

    def delete(self, key: str, expect: str | None) -> None:
        raise Unsupported(key)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        raise Unsupported(key)

    def make_dir(self, key: str) -> None:
        raise Unsupported(key)

    def remove_dir(self, key: str) -> None:
        raise Unsupported(key)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        raise Unsupported(directory)
