"""The messages that docs/troubleshooting.md quotes are those that effnet prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import click
import pytest

from flows.cli.main import cli
from tests.docs.printed import ROOT

DOCUMENT = "docs/troubleshooting.md"
ANY = "…"  # what differs from case to case


def quoted() -> list[str]:
    """Return the messages in the first columns of the document's tables."""
    return re.findall(r"^\| `([^`]+)`", (ROOT / DOCUMENT).read_text(), re.MULTILINE)


def texts(code: str) -> Iterator[str]:
    """Return the texts in a module's code but its docstrings, with `…` for what is filled in."""
    tree = ast.parse(code)
    passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in passed and (isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", 0), str)):
            yield _text(node)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else ANY for part in node.values)  # type: ignore[misc]
    return node.value  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def printable() -> str:
    files = [path for package in ("effnet", "tasks", "flows") for path in sorted((ROOT / package).rglob("*.py"))]
    return "\n".join(text for path in files for text in texts(path.read_text()))


def test_texts_are_found_whole_and_docstrings_are_not() -> None:
    raised = 'raise E(f"{x}: no such "\n            f"thing in {x!r}; look")'
    code = f'"""Doc."""\ndef f(x):\n    """Doc f."""\n    {raised}\nY = "plain"\n'
    assert {"…: no such thing in …; look", "plain"} <= set(texts(code))
    assert not [text for text in texts(code) if "Doc" in text]


def test_there_are_messages() -> None:
    assert len(quoted()) > 25


def test_options_that_are_advised_are_those_of_a_command() -> None:
    def options(command: click.Command) -> set[str]:
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        own = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        return own.union(*map(options, inner))

    advised = set(re.findall(r"`[^`]*?(--[a-z][a-z0-9-]*)", (ROOT / DOCUMENT).read_text()))
    assert advised
    assert advised <= options(cli)


@pytest.mark.parametrize("message", quoted())
def test_a_message_is_one_that_is_printed(message: str, printable: str) -> None:
    assert message in printable
