"""The documents that promise name tests for their statements; these must exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.config.credentials import CREDENTIALS
from mountd.config.options import OPTIONS

ROOT = Path(__file__).parents[2]
SEMANTICS, NEXTCLOUD = ROOT / "docs/semantics.md", ROOT / "docs/nextcloud.md"
COPY, MANIFEST = ROOT / "docs/copy.md", ROOT / "docs/manifest.md"
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
SECURITY = ROOT / "docs/security.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize(
    ("document", "least"),
    [(SEMANTICS, 8), (NEXTCLOUD, 8), (COPY, 4), (MANIFEST, 5), (SECURITY, 8)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_test_that_a_document_names_exists(document: Path, least: int) -> None:
    text = document.read_text()
    modules = set(re.findall(r"`((?:unit|mount|contract|servers|fuzz)/test_\w+\*?\.py)", text))
    assert len(modules) >= least
    for module in modules:
        assert list((ROOT / "tests").glob(module)), module
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    functions = set(re.findall(r"::(test_\w+)", text))
    assert len(functions) > 12
    for function in functions:
        assert f"def {function}(" in sources, function


def test_no_page_has_both_sides_of_a_merge() -> None:
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    pages = (*PAGES, ROOT / "CHANGELOG.md")
    assert [page.name for page in pages if marks.search(page.read_text())] == []


def test_every_errno_that_the_semantics_name_is_in_the_table_of_the_code() -> None:
    code = (ROOT / "mountd/fusefs/errno_table.py").read_text()
    rows = re.findall(r"\| (E[A-Z]+) \|", SEMANTICS.read_text())
    assert len(rows) >= 8
    for name in rows:
        assert f"errno.{name}" in code, name


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_every_path_and_link_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        target = document.parent / path if path else document
        assert target.exists(), path
        if anchor:
            assert anchor in anchors_of(target.read_text()), f"{path}#{anchor}"
    for path in re.findall(r"`((?:mountd|cache|scripts|docs|tests|systemd)/[\w./@-]+)`", text):
        assert (ROOT / path).exists(), path


def anchors_of(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower())
        name, number = plain.replace(" ", "-"), 1
        while name in found:
            name, number = f"{plain.replace(' ', '-')}-{number}", number + 1
        found.add(name)
    return found


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = [path.name for path in PAGES if path.parent.name == "docs"]
    assert [name for name in pages if name != "README.md" and f"({name})" not in index] == []


def test_every_function_of_the_walks_is_in_the_file_that_is_named_before_it() -> None:
    found = re.findall(r"`([\w./]+\.py)`:((?:,?\s`[A-Za-z_.]+`)+)", ARCHITECTURE.read_text())
    assert len(found) > 20
    for file, names in found:
        tree = ast.parse((ROOT / file).read_text())
        defined = set(names_defined(tree.body))
        for name in re.findall(r"`([^`]+)`", names):
            assert name in defined, f"{name} is not in {file}"


def names_defined(body: list[ast.stmt]) -> Iterator[str]:
    """Functions, classes, and methods as `Class.method`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{name}" for name in names_defined(node.body))


def test_every_room_and_every_module_beside_the_rooms_is_on_the_map() -> None:
    text, top = ARCHITECTURE.read_text(), ROOT / "mountd"
    rooms = [f"mountd/{path.parent.name}/" for path in top.glob("*/__init__.py")]
    modules = [f"mountd/{path.name}" for path in top.glob("*.py") if path.stem[0] != "_"]
    assert [name for name in (*rooms, *modules) if f"`{name}`" not in text] == []


def test_every_page_that_the_code_names_is_in_this_repository() -> None:
    pages = {path.name for path in PAGES} | {"CHANGELOG.md"}
    found = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("mountd", "cache", "scripts", "systemd", "docker", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ("", ".py", ".sh", ".service", ".toml", ".yaml") and path.is_file()
        for name in re.findall(r"[\w-]+\.md\b", path.read_text(errors="replace"))
    }
    assert len(found) > 40
    assert sorted(one for one in found if one[1] not in pages) == []


def test_what_the_peers_flags_are_here_are_options_that_exist() -> None:
    text = (ROOT / "docs/coming-from.md").read_text()
    names = {*OPTIONS, *CREDENTIALS, *(f"{name}_file" for name in CREDENTIALS), "ro"}
    named = 0
    for cell in re.findall(r"^\| .+? \| (.+) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(?:-o )?([a-z_]+)(?:[ =][^`]*)?`", cell):
            if "_" in name or name in names:
                named += 1
                assert name in names, cell
    assert named > 60


def test_how_to_report_a_hole_is_found_from_the_readme() -> None:
    text = SECURITY.read_text()
    assert "[like this](#reporting-a-hole)" in text
    assert "open a private advisory in the repository that you got mountd from" in text
    assert "how to report a hole: [docs/security.md]" in README.read_text()
