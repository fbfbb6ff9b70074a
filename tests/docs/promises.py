"""docs/promises.md: which test or benchmark stands behind which sentence of the documentation.

`python -m tests.docs.promises` prints what is wrong with it, and rows for sentences that are not in it yet.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.docs.printed import ROOT, Block, blocks

PROMISES = "docs/promises.md"
NOTHING = "–"  # beside a sentence that could not be broken: an opinion, a plan, a definition
NOT_TRIED = "not tried: "  # beside what cannot be tried here, with the reason
# A sentence with one of these words says what happens; every command and file that is printed does too.
_MARKERS = (
    "again all alone always any bit bits bounded counted each equal every exact exactly fails kept must named never no "
    "nobody none nothing once only refused refuses same told whole without"
)
_MARKED = re.compile(rf"\b({'|'.join(_MARKERS.split())})\b", re.IGNORECASE)
_FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_ENDS = re.compile(r"(?<=[.!?])(?:\*\*|\))? +(?=[A-Z`*(\[0-9α-ω])")


class Promise(NamedTuple):
    """A row: what a document says, and what stands behind it."""

    document: str
    quote: str
    backing: tuple[str, ...]  # tests (FILE::NAME), files with figures, `make` targets of CI
    other: str  # NOTHING, or NOT_TRIED and why, where there is no backing


def documents() -> list[str]:
    """Return the documents whose sentences are promises."""
    found = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/tutorials/*.md"))]
    paths = [str(path.relative_to(ROOT)) for path in found]
    return ["README.md", *(path for path in paths if path != PROMISES), "infra/README.md"]


def promises() -> list[Promise]:
    """Read the rows of docs/promises.md."""
    found, document = [], ""
    for line in (ROOT / PROMISES).read_text().splitlines():
        if line.startswith("## "):
            document = line.removeprefix("## ").strip("`")
        elif line.startswith("|") and document:
            quote, _, behind = line.strip("| ").rpartition(" | ")
            if quote and set(quote) - set("-| ") and quote != "what it says":
                found.append(_promise(document, quote, behind))
    return found


def _promise(document: str, quote: str, behind: str) -> Promise:
    if behind == NOTHING or behind.startswith(NOT_TRIED):
        return Promise(document, plain(quote), (), behind)
    return Promise(document, plain(quote), tuple(each.strip("` ") for each in behind.split("<br>")), "")


def plain(text: str) -> str:
    """Return a text with single spaces, links as their words alone, and `·` for the bars of a table."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\\?\|", "·", re.sub(r"\\\n", " ", text))
    return re.sub(r"\s+", " ", text).strip("· ")


def sentences(document: str) -> list[str]:
    """Return a document's sentences, rows of tables, printed commands and beginnings of printed files, all `plain`."""
    text = (ROOT / document).read_text()
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. |\|(?!-)|#))", _FENCED.sub("\n\n", text)):
        if paragraph.strip().startswith("#") or "\n|--" in paragraph:  # a heading, or that of a table
            continue
        bare = plain(re.sub(r"^\s*(?:[-*] |\d+\. )", "", paragraph))
        found += [bare] if paragraph.lstrip().startswith("|") else _ENDS.split(bare)
    for block in blocks(document):
        found += [plain(line) for line in _printed(block)]
    return [each for each in found if re.search(r"\w", each)]


def printed(document: str) -> set[str]:
    """Return those of the sentences that are printed commands and beginnings of printed files."""
    return {plain(line) for block in blocks(document) for line in _printed(block)}


def _printed(block: Block) -> list[str]:
    if block.language == "text":  # output, or a drawing
        return []
    return block.commands if block.language == "sh" else [" ".join(block.text.splitlines()[:2])]


def left_out() -> list[tuple[str, str]]:
    """Return sentences (document, sentence) that seem to promise something, and are in no row."""
    rows = promises()
    found = []
    for document in documents():
        quotes = [row.quote for row in rows if row.document == document]
        commands = printed(document)
        for sentence in sentences(document):
            says = sentence in commands or _MARKED.search(sentence)
            if says and not any(_covers(quote, sentence, commands) for quote in quotes):
                found.append((document, sentence))
    return found


def _covers(quote: str, sentence: str, commands: set[str]) -> bool:
    """Say whether a row is about a sentence; one of a printed command is about no sentence that names the command."""
    return quote == sentence or sentence in quote or (quote in sentence and quote not in commands)


def not_said() -> list[tuple[Promise, str]]:
    """Return the rows whose document does not say what they quote, with the sentence that is most like it."""
    found = []
    for row in promises():
        path = ROOT / row.document
        if not path.is_file():
            found.append((row, "no such document"))
        elif row.quote not in plain(path.read_text()) and row.quote not in sentences(row.document):
            found.append((row, next(iter(difflib.get_close_matches(row.quote, sentences(row.document), 1, 0.4)), "")))
    return found


def without_backing() -> list[str]:
    """Return what stands behind rows, and is not there or is always skipped."""
    names = sorted({each for row in promises() for each in row.backing})
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    file, _, test = name.partition("::")
    path = ROOT / file
    if file.startswith("make "):
        return file in (ROOT / ".ci/run").read_text().splitlines()
    if not test:
        return path.is_file() and ("benchmarks" in path.parts or "results" in path.parts)
    return path.is_file() and test in _tests(path)


@functools.cache
def _tests(path: Path) -> set[str]:
    """Return the names of a file's tests, those of classes with the class before them; not those that are skipped."""
    module = ast.parse(path.read_text())
    found = {node.name for node in module.body if _is_test(node)}
    for group in (node for node in module.body if isinstance(node, ast.ClassDef)):
        found |= {f"{group.name}::{node.name}" for node in group.body if _is_test(node)}  # type: ignore[attr-defined]
    return found


def _is_slow(name: str) -> bool:
    file, _, test = name.partition("::")
    body = ast.parse((ROOT / file).read_text()).body
    all_slow = any(
        isinstance(node, ast.Assign) and ast.unparse(node) == "pytestmark = pytest.mark.slow" for node in body
    )
    return all_slow or any(
        isinstance(node, ast.FunctionDef) and node.name == test and _is_marked(node, "slow") for node in body
    )


def _is_marked(node: ast.FunctionDef | ast.AsyncFunctionDef, mark: str) -> bool:
    return any(f"mark.{mark}" in ast.unparse(each) for each in node.decorator_list)


def _is_test(node: ast.stmt) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return node.name.startswith("test_") and not _is_marked(node, "skip")


def not_kept(ran: Iterable[str], skipped: Iterable[str], *, slow: bool = True) -> list[str]:
    """Return the promised tests (node ids) that did not run, or were skipped, in a run of the whole suite.

    Args:
        ran, skipped: node ids.
        slow: slow tests were to run as well.
    """
    called, passed_over = ({nodeid.partition("[")[0] for nodeid in nodeids} for nodeids in (ran, skipped))
    named = {each for row in promises() for each in row.backing if "::" in each}
    wanted = sorted(each for each in named if slow or not _is_slow(each))
    words = {name: "was skipped" if name in passed_over else "did not run" for name in wanted}
    return [f"{name} {word}" for name, word in words.items() if name in passed_over or name not in called]


def main() -> None:
    """Print what is wrong, and rows that are missing."""
    for row, instead in not_said():
        print(f"{row.document}: does not say: {row.quote}\n    but perhaps: {instead}")
    for name in without_backing():
        print(f"no such test or file: {name}")
    for document, sentence in left_out():
        print(f"{document}\n| {sentence} | ? |")


if __name__ == "__main__":
    main()
