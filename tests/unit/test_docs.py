"""The documents that promise name tests for their statements; these must exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEMANTICS, NEXTCLOUD = ROOT / "docs/semantics.md", ROOT / "docs/nextcloud.md"
COPY, MANIFEST = ROOT / "docs/copy.md", ROOT / "docs/manifest.md"


@pytest.mark.parametrize(
    ("document", "least"),
    [(SEMANTICS, 8), (NEXTCLOUD, 8), (COPY, 4), (MANIFEST, 5)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_test_that_a_document_names_exists(document: Path, least: int) -> None:
    text = document.read_text()
    modules = set(re.findall(r"`((?:unit|mount|contract|servers)/test_\w+\*?\.py)", text))
    assert len(modules) >= least
    for module in modules:
        assert list((ROOT / "tests").glob(module)), module
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    functions = set(re.findall(r"::(test_\w+)", text))
    assert len(functions) > 12
    for function in functions:
        assert f"def {function}(" in sources, function


def test_every_errno_that_the_semantics_name_is_in_the_table_of_the_code() -> None:
    code = (ROOT / "mountd/fusefs/errno_table.py").read_text()
    rows = re.findall(r"\| (E[A-Z]+) \|", SEMANTICS.read_text())
    assert len(rows) >= 8
    for name in rows:
        assert f"errno.{name}" in code, name


def test_every_path_and_link_that_the_documents_name_exists() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text()
        for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (document.parent / path).exists(), f"{document.name}: {path}"
        for path in re.findall(r"`((?:mountd|cache|scripts|docs|tests)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{document.name}: {path}"
