"""The documentation as a site: built strictly, whole, and with nothing that is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import effnet
from tests.docs.printed import ROOT
from tests.docs.promises import documents

# Not --quiet: with it mkdocs counts no warnings, and --strict is in vain.
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/site/mkdocs.yml"]
_ELSEWHERE = r"""=["']?(?:https?:)?//"""
_LOADED = re.compile(rf"<(?:script|img|iframe|source)\b[^>]*\bsrc{_ELSEWHERE}|<link\b[^>]*\bhref{_ELSEWHERE}")


def build(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [*BUILD, "--site-dir", str(folder)]
    bare = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = bare | {"NO_MKDOCS_2_WARNING": "1", **changes}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; the tool comes with the extra `dev`, so it is an error where it is missing."""
    folder = tmp_path_factory.mktemp("site")
    hidden = tmp_path_factory.mktemp("hidden")  # packages whose import would fail: the reference needs none of them
    (hidden / "torch.py").write_text("raise ImportError('the reference is made without torch')\n")
    path = os.pathsep.join(filter(None, [str(hidden), os.environ.get("PYTHONPATH", "")]))
    done = build(folder, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    pages = [path.removeprefix("docs/") for path in documents() if path.startswith("docs/")]
    wanted = ["index", "promises", "tutorials/predict", *(path.removesuffix(".md") for path in pages)]
    assert [name for name in wanted if not (site / f"{name}.html").is_file()] == []
    assert (site / "files/effnet/config.py.html").is_file()  # what a page links to
    assert list(site.glob("results/*.html"))


def test_scripts_are_not_published(site: Path) -> None:
    assert [path for kind in ("*.py", "*.ipynb", "*.pyc", "mkdocs.yml") for path in site.rglob(kind)] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    assert [page.relative_to(site) for page in pages if _LOADED.search(page.read_text())] == []
    assert _LOADED.search('<script src="https://unpkg.com/iframe-worker/shim"></script>')


def test_the_reference_has_every_public_name(site: Path) -> None:
    text = (site / "api.html").read_text()
    names = [name for name in effnet.__all__ if name != "__version__"]
    assert [name for name in names if not re.search(rf'id="effnet\.[\w.]*\b{name}"', text)] == []
    assert 'id="effnet.errors.ConfigError"' in text


def test_the_search_finds_guides_and_leaves_lists_out(site: Path) -> None:
    index = (site / "search/search_index.js").read_text()
    assert '"location":"glossary.html' in index
    assert '"location":"promises.html' not in index


def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    """A copy of the documentation, small, with one wrong link."""
    for name in ("mkdocs.yml", "hooks.py", "extra.css", "iframe-worker.js"):
        (tmp_path / "docs/site").mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs/site" / name).write_bytes((ROOT / "docs/site" / name).read_bytes())
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).write_text("# Title\n\n[none](docs/none.md)\n" if name == "README.md" else "# Title\n")
    config = tmp_path / "docs/site/mkdocs.yml"
    config.write_text(config.read_text().partition("nav:\n")[0].replace("omitted_files: warn", "omitted_files: ignore"))
    command = [*BUILD[:-1], str(config), "--site-dir", str(tmp_path / "out")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "docs/none.md" in done.stderr
