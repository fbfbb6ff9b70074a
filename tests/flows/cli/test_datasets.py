"""The commands about datasets, as they are typed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.tiny import run_effnet, write_tiny


def test_a_preview_is_drawn(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    done = run_effnet(
        "data", "preview", "tiny.yaml", "--out", "seen.png", "--images", "3", "--draws", "2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "seen.png\n"
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.width > picture.height > 200  # three columns beside their names, three rows
        assert len(picture.convert("L").getcolors(256) or []) > 50
    assert list((tmp_path / "store/datasets").glob("*/manifest.json"))
