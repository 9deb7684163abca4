"""`mountd manifest FILE SOURCE...`: one list of the files of several places, with versions."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from mountd.cli.arguments import Parser, load_config
from mountd.cli.copy import send_dirty
from mountd.cli.copy_manifest import Described, manifest_path
from mountd.cli.copy_sides import Place, as_file, find_place, open_side
from mountd.cli.output import print_line
from mountd.cli.progress import progress
from mountd.config.load import read_command_line
from mountd.errors import ExitCode, StartError, UsageError
from mountd.in_words import counted, human_bytes
from mountd.transfer.filters import Filter, read_filter
from mountd.transfer.run import NothingThere
from mountd.transfer.side import list_side

_IN_FOLDER = re.compile(r"(?![./~])([^:=]+)=(.+)", re.DOTALL)


def run(arguments: Sequence[str]) -> int:
    """0 when the manifest is written; nothing is written else."""
    parsed = _parser().read(arguments)
    config = load_config(parsed.config)
    command_line = read_command_line(parsed.options)
    path = manifest_path(parsed.file)
    wanted = read_filter(parsed.include, parsed.exclude)
    described = Described()
    with ExitStack() as stack:
        shown = stack.enter_context(progress())
        folder = stack.enter_context(TemporaryDirectory(prefix="mountd-manifest-"))
        for text in parsed.sources:
            inside, source = _in_folder(text)
            place = find_place(source, config, command_line)
            if place.mounted is not None:
                send_dirty(place.mounted, shown)
            describe(described, place, folder, inside, wanted, sums=parsed.checksums)
    manifest = described.write(path)
    size = sum(file.size for file in manifest.files)
    where = counted(len(manifest.locations), "location")
    print_line(f"{path}: {counted(len(manifest.files), 'file')}, {human_bytes(size)}, {where}")
    return ExitCode.OK


def describe(
    described: Described,
    place: Place,
    folder: str,
    inside: str,
    wanted: Filter,
    *,
    sums: bool,
) -> None:
    """Lists a place, or takes it for a file where it is no folder."""
    side = open_side(place, Path(folder))
    try:
        listing = list_side(side, links=False)
        if listing.gone:
            raise StartError(f"{listing.gone[0]}/ was gone when what is in it was to be listed")
        items = [item for path, item in sorted(listing.items.items()) if wanted.takes(path)]
        if listing.items:
            if sums:
                described.add_sums(side, place, items, inside)
            else:
                described.add(place, items, inside)
            return
    finally:
        side.store.close()
    file = as_file(place) if not place.only else None
    if file is None:
        raise NothingThere(f"there is nothing at {place.text}")
    describe(described, file, folder, inside, wanted, sums=sums)


def _in_folder(text: str) -> tuple[str, str]:
    """(FOLDER, SOURCE) of `FOLDER=SOURCE`; what has a colon or begins as a path has no FOLDER."""
    found = _IN_FOLDER.fullmatch(text)
    if found is None:
        return "", text
    folder = found[1].strip("/")
    if not {"", ".", ".."}.isdisjoint(folder.split("/")):
        raise UsageError(f"manifest: {found[1]!r} is no folder of the set; write FOLDER=SOURCE")
    return folder, found[2]


def _parser() -> Parser:
    parser = Parser("manifest", "Writes what is in all SOURCEs into one manifest; copies nothing.")
    parser.add_argument("file", metavar="FILE", help="the manifest to be written")
    parser.add_argument(
        "sources", nargs="+", metavar="[FOLDER=]SOURCE", help="as for copy; FOLDER: in the set"
    )
    parser.add_argument(
        "--checksums", action="store_true", help="ask the remotes for them; local files are read"
    )
    for name, what in (("include", "only"), ("exclude", "not")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="GLOB", help=f"{what} these files"
        )
    parser.add_config()
    parser.add_options()
    return parser
