"""Each message that docs/troubleshooting.md quotes from mountd is one that mountd prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
# What others say, and mountd passes on.
OF_OTHERS = ("certificate verify failed", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed")


def quoted_messages() -> list[str]:
    """The code in the first column of a table, where it is a sentence and no option or command."""
    found: list[str] = []
    for row in re.findall(r"^\| (.+?) \|", PAGE, re.MULTILINE):
        found += [text for text in re.findall(r"`([^`]+)`", row) if " " in text]
    found += re.findall(r"^\*\*`([^`]+ [^`]+)`\*\*", PAGE, re.MULTILINE)
    is_setting = re.compile(r"-o |\w+ = ")
    found = [text for text in found if text not in OF_OTHERS and not is_setting.match(text)]
    return list(dict.fromkeys(found))


def texts_of(tree: ast.AST) -> Iterator[str]:
    """String constants; of f-strings with "\\0" for what is put in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found: list[str] = []
    for package in ("mountd", "cache/mountd_cache"):
        for path in (ROOT / package).rglob("*.py"):
            found += texts_of(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_in_the_code(message: str, texts: list[str]) -> None:
    pieces = [piece.strip(" :") for piece in message.split("...") if piece.strip(" :")]
    assert pieces
    pattern = re.compile(".*".join(re.escape(piece) for piece in pieces), re.DOTALL)
    assert any(pattern.search(text) for text in texts), message


def test_the_page_quotes_many_messages() -> None:
    assert len(quoted_messages()) > 20
