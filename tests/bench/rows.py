"""All rows of the table, reading first."""

from tests.bench.cases import Case, Sizes, read_cases
from tests.bench.write_cases import write_cases


def all_cases(sizes: Sizes) -> dict[str, Case]:
    """In order, by name."""
    return {case.name: case for case in (*read_cases(sizes), *write_cases(sizes))}
