"""How `mountd copy` has the remote copy by itself."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mountd.cli.copy_sides import Place, identity_of, stacked
from mountd.errors import UsageError
from mountd.transfer.items import Item
from mountd.transfer.send import InStore, ServerCopy

_WITH_BUCKETS = frozenset(("s3", "gs", "az"))


def open_server_copy(source: Place, target: Place, folder: Path) -> ServerCopy | None:
    """None where the remote can't copy from one to the other by itself."""
    if source.source is None or target.source is None or target.settings is None:
        return None
    places = _locations(source) if source.manifest is not None else [source]
    are_near = [_is_near(place, target) for place in places]
    near = [place for place, is_near in zip(places, are_near, strict=True) if is_near]
    if not near or not target.source.authority:
        return None
    in_one = all(identity_of(place) == identity_of(target) for place in near)
    paths = [_path(place, in_one) for place in (target, *near)]
    common = os.path.commonpath(paths) if all(paths) else ""
    whole = replace(target.source, prefix=common)
    if not in_one:
        common, whole = "", replace(target.source, authority="", prefix="", user="")
    try:
        store = stacked(whole, target.settings, folder)
    except UsageError:  # gs:// has no buckets without a project
        return None
    # (What holds for a bucket isn't known of all buckets; one that can't says so when it is asked.)
    if whole.authority and not store.capabilities.server_copy:
        store.close()
        return None
    to, *below = [_below(common, path) for path in paths]
    if source.manifest is None:
        return ServerCopy(store, lambda item: InStore(below[0] + item.key, item.version), to)
    found = iter(below)
    of_all = [next(found) if is_near else None for is_near in are_near]
    return ServerCopy(store, _listed_in(source, of_all), to)


def _is_near(place: Place, target: Place) -> bool:
    """Whether a store of the target's account is one of this place, too."""
    if place.source is None or target.source is None or not place.source.authority:
        return False
    if identity_of(place) == identity_of(target):
        return True
    return place.source.scheme in _WITH_BUCKETS and _account_of(place) == _account_of(target)


def _locations(place: Place) -> list[Place]:
    """Those of a manifest, in its order."""
    assert place.manifest is not None
    assert place.reach is not None
    reached = [place.reach(location) for location in place.manifest.locations]
    return [Place(source.text, settings, source) for source, settings in reached]


def _listed_in(place: Place, below: Sequence[str | None]) -> Callable[[Item], InStore | None]:
    """`below`: where each location of a manifest is in the store, None for one that is not."""
    assert place.manifest is not None
    files = {file.path: file for file in place.manifest.files}

    def found(item: Item) -> InStore | None:
        file = files[item.key]
        above = below[file.at]
        return None if above is None else InStore(above + file.key, file.version, is_of_list=True)

    return found


def _path(place: Place, in_one: bool) -> str:
    assert place.source is not None
    return place.source.prefix if in_one else f"{place.source.authority}/{place.source.prefix}"


def _account_of(place: Place) -> str:
    """As `identity_of`, for all buckets of an account."""
    assert place.source is not None
    return identity_of(replace(place, source=replace(place.source, authority="")))


def _below(common: str, path: str) -> str:
    rest = path[len(common) :].strip("/")
    return f"{rest}/" if rest else ""
