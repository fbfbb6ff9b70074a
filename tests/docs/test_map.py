"""README's map of the house, and the house."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "effnet")


def rooms() -> dict[str, str]:
    """Return the map's folders and files, as paths, and what is said of each."""
    text = (ROOT / "README.md").read_text().split("## The map of the house")[1]
    lines = text.split("```text\n")[1].split("```")[0].splitlines()
    found: dict[str, str] = {}
    above: list[str] = []
    for line in lines:
        name, _, said = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        if "," in name:  # files in a row
            name, said = "", line.strip()
        above = [*above[:depth], name]
        found["".join(above) or line] = said.strip()
    return found


def test_what_the_map_names_is_there() -> None:
    for path, said in rooms().items():
        assert (ROOT / path).exists(), path
        for file in re.findall(r"[\w/-]+\.(?:py|md)\b", said):
            folders = [ROOT, ROOT / path, ROOT / path.rpartition("/")[0]]
            assert any((folder / file).is_file() for folder in folders), (path, file)


def test_every_room_is_on_the_map() -> None:
    mapped = rooms()
    for package in PACKAGES:
        for folder in sorted((ROOT / package).rglob("__init__.py")):
            name = f"{folder.parent.relative_to(ROOT)}/"
            assert name in mapped, name


def test_every_file_of_a_package_is_in_a_room_that_is_named_or_named_itself() -> None:
    text = (ROOT / "README.md").read_text().split("## The map of the house")[1]
    for package in PACKAGES:
        for file in sorted((ROOT / package).glob("*.py")):
            assert file.stem in ("__init__",) or re.search(rf"\b{file.stem}\b", text), file
