"""All rows of the table, reading first."""

from tests.bench.cases import Case, Sizes, read_cases
from tests.bench.copy_cases import copy_cases
from tests.bench.nextcloud_cases import nextcloud_cases
from tests.bench.train_cases import train_cases
from tests.bench.write_cases import write_cases


def all_cases(sizes: Sizes) -> dict[str, Case]:
    """In order, by name."""
    cases = (
        *read_cases(sizes),
        *write_cases(sizes),
        *copy_cases(sizes),
        *train_cases(sizes),
        *nextcloud_cases(sizes),
    )
    return {case.name: case for case in cases}
