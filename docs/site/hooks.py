"""What mkdocs is told beyond its settings: pages that are made of the repository's files, so that every link leads on.

README.md is the first page. A file outside of docs/ that a page links to becomes a page of its own below files/:
Markdown as it is, a folder as a list, anything else as highlighted text. Notebooks become pages. api.md ends with the
reference, made from docstrings without importing effnet. So one text serves the repository's pages and the site, also
offline.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
DOCS, FILES = "docs/", "files/"  # in the repository; in the site, what is made of files outside of docs/
_LINK = re.compile(r"(?<=\]\()[^)#:\s]+(?=(?:#[^)]*)?\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "sh"}
_FENCE = "``````"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name headings as the repository's pages do, so that links to them work in both places."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: README, notebooks, and whatever the pages link to."""
    notebooks = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / DOCS).rglob("*.ipynb"))]
    made = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", *notebooks]
    known = {*made, *(DOCS + file.src_uri for file in files.documentation_pages())}
    waiting = [*known]
    while waiting:
        for target in linked(waiting.pop()) - known:
            known.add(target)
            if page_of(target) != target.removeprefix(DOCS):  # docs/ does not have it as it is
                made.append(target)
                waiting.append(target)
    for source in made:
        files.append(File.generated(config, page_of(source), content=pointed(markdown_of(source), source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of a page of docs/ to the pages that were made; add the reference to that of the names in Python."""
    source = page.file.src_uri
    if source.startswith(FILES) or source == "promises.md":
        page.meta["search"] = {"exclude": True}
    if page.file.generated_by:
        return markdown
    return pointed(markdown, DOCS + source) + (reference() if source == "api.md" else "")


def linked(source: str) -> set[str]:
    """Return the files and folders of the repository that a file's Markdown links to."""
    return {found for link in _LINK.findall(markdown_of(source)) if (found := resolved(source, link))}


def resolved(source: str, link: str) -> str | None:
    """Return what a link in a file leads to, named from the top of the repository; None where there is nothing."""
    base = source if (ROOT / source).is_dir() else posixpath.dirname(source)
    target = posixpath.normpath(posixpath.join(base, link))
    return target if (ROOT / target).exists() and not target.startswith("..") else None


def page_of(source: str) -> str:
    """Return where a file or folder of the repository is in the site."""
    path, inside = ROOT / source, source.startswith(DOCS)
    if source == "README.md":
        return "index.md"
    if path.is_dir():
        readme = f"{source}/README.md"
        return page_of(readme) if (ROOT / readme).is_file() else f"{page_below(source, inside)}/index.md"
    if inside and path.suffix == ".ipynb":
        return source.removeprefix(DOCS).replace(".ipynb", ".md")
    if path.suffix == ".md" or (inside and path.suffix != ".py"):
        return page_below(source, inside)
    return f"{FILES}{source}.md"


def page_below(source: str, inside: bool) -> str:
    """Return the same path in the site, of what is inside of docs/ or not."""
    return source.removeprefix(DOCS) if inside else FILES + source


def pointed(markdown: str, source: str) -> str:
    """Return a file's Markdown with links that lead to the same files in the site."""
    start = posixpath.dirname(page_of(source)) or "."

    def there(match: re.Match[str]) -> str:
        target = resolved(source, match[0])
        return posixpath.relpath(page_of(target), start) if target else match[0]

    return _LINK.sub(there, markdown)


def markdown_of(source: str) -> str:
    """Return a file or a folder of the repository as Markdown; nothing for what holds no text."""
    path = ROOT / source
    if path.is_dir():
        readme = path / "README.md"
        return readme.read_text() if readme.is_file() else listed(path)
    if path.suffix == ".md":
        return path.read_text()
    if path.suffix == ".ipynb":
        return notebook(json.loads(path.read_text()))
    if path.suffix == ".png":
        return ""
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# {source}\n\n{_FENCE}{language}\n{path.read_text()}\n{_FENCE}\n"


def listed(folder: Path) -> str:
    """Return a folder's files as a list of links."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return f"# {folder.relative_to(ROOT)}\n\n" + "\n".join(f"- [{name}]({name})" for name in names) + "\n"


def notebook(content: dict) -> str:
    """Return a notebook's cells as Markdown: text, code, and what the code printed."""
    parts = []
    for cell in content["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        printed = "".join(line for output in cell["outputs"] for line in output.get("text", ()))
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def reference() -> str:
    """Return what mkdocstrings turns into the reference: the names that `import effnet` gives, and the errors."""
    homes = {"zoo": "effnet.arch.zoo"} | {name: f"{module}.{name}" for name, module in _homes().items()}
    names = [*sorted(homes.values(), key=str.lower), "effnet.evaluation.predictor.open_predictor", "effnet.errors"]
    return "\n\n## Reference\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"


def _homes() -> dict[str, str]:
    module = ast.parse((ROOT / "effnet/__init__.py").read_text())
    (found,) = (node.value for node in module.body if isinstance(node, ast.Assign) and _is_named(node, "_HOMES"))
    return ast.literal_eval(found)


def _is_named(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
