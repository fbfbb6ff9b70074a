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


def test_shards_are_told_in_one_line_without_an_empty_one_before_it(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    (tmp_path / "tiny").mkdir()  # `tiny/` is how a shell completes the name then
    done = run_effnet("shard", "tiny/", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "effnet: the config is tiny.yaml\n"
    assert done.stdout.startswith(f"{tmp_path / 'store/datasets'}/")
    assert done.stdout.count("\n") == 1
