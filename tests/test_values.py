"""Configurations: what is wrong is told in one line, with the place and the likely remedy."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from effnet.arch import zoo
from effnet.arch.spec import Stage
from effnet.config import FamilyConfig, load_config
from effnet.errors import ConfigError
from effnet.order import Order
from effnet.values import FORMS, read_mapping
from tests.tiny import CONFIG, write_tiny

MISTAKES = [
    ("epochs: 3", "epoch: 3", "unknown key 'recipe.epoch'; did you mean 'epochs'?"),
    ("epochs: 3", "epochs: three", 'recipe.epochs: input should be a valid integer (got "three")'),
    ("epochs: 3", "epochs: 0", "recipe.epochs: input should be greater than or equal to 1 (got 0)"),
    ("epochs: 3", "epochs: 3.5", "recipe.epochs: input should be a valid integer"),
    ("epochs: 3", "epochs: .inf", "holds something other than text, numbers, lists and maps"),
    ("minival: 0.2", "minival: 0.7", "data.minival: input should be less than 0.5 (got 0.7)"),
    ("kind: digits", "kind: digit", "(got \"digit\"); did you mean 'digits'?"),
    ("kind: digits, ", "", "data.source.kind: missing"),
    ("phi: [0, 1, 2]", "phi: [0, 2, 1]", "members: phi must rise from member to member"),
    ("phi: [0, 1, 2]", "phi: []", "members.phi"),
    ("crop_area: [0.7, 1.0]", "crop_area: [0.7, 1.5]", "crop_area must rise within 0..1"),
    ("family: tiny", "family: Tiny Family", "family: must be lower-case letters, digits, _ and -"),
    ("family: tiny", "family: tiny\nfamily: other", "key 'family' is given twice"),
    ("family: tiny", "family: [tiny", "line"),
    ("family: tiny\n", "", "family: missing"),
    ("store: store", "store: s3://bucket/x", "only folders can be stores so far"),
    (
        "store: store",
        "store: !!python/object/apply:os.system ['touch /tmp/pwned']",
        "could not determine a constructor",
    ),
    ("store: store", "forecast: {costs: [1, 2, 4]}", "forecast.costs: "),
    ("store: store", "forecast: {costs: [1, 2, 3, 3.5]}", "costs must span a factor of 4 at least (got 1 to 3.5)"),
    ("store: store", "forecast: {costs: [4, 2, 1, 0.5]}", "costs must rise, without repeats"),
    ("store: store", "forecast: {seeds: 1}", "forecast.seeds: input should be greater than or equal to 2 (got 1)"),
    ("phi: [0, 1, 2]", "stop_when: {gain_below: 0.2}, phi: [0, 1]", "members.stop_when needs a forecast"),
    ("recipe:\n", "forecast: {}\nrecipe:\n  teacher: largest\n", "forecast knows nothing of teachers"),
    ("store: store", "coefficients: [0.9, 1.1, 1.1]", "coefficients must each be at least 1"),
]


@pytest.mark.parametrize(("old", "new", "told"), MISTAKES)
def test_mistakes_are_told_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in CONFIG
    path = write_tiny(tmp_path, CONFIG.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert told in message
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize("changes", [{}, {"channels": 24}, {"channels": 24, "se_ratio": 0, "skip": False}])
def test_replacing_fields_is_copying_with_an_update(changes: dict[str, Any]) -> None:
    for stage in (Stage(channels=8, repeats=2), zoo.get("efficientnet_b0").stages[2]):
        before = stage.model_dump_json()
        made, wanted = stage.replaced(**changes), stage.model_copy(update=changes)
        assert made == wanted
        assert made.model_fields_set == wanted.model_fields_set
        assert made.model_dump_json() == wanted.model_dump_json()
        assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - as processes hand values to each other
        assert hash(made) == hash(wanted)
        assert stage.model_dump_json() == before
        with pytest.raises(ValidationError, match="frozen"):
            made.channels = 3  # type: ignore[misc]


def test_missing_file_and_folder_and_binary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or directory; check the path"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="a folder, where a file is expected"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(binary)


def test_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 5)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError):
        load_config(path)


def test_shipped_configs_are_valid() -> None:
    paths = sorted(Path("configs").glob("*.yaml"))
    assert paths
    for path in paths:
        load_config(path)


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than 20,000 values"),  # 10^9 of them, in 400 bytes
        ("a: &a [*a]", "more than 20,000 values"),
        ("a: " + "9" * 5000, "'9+…' \\(5,000 characters\\) is not a usable number"),
        ("a: " + "1:" * 50_000 + "1", "is not a usable number"),
        ("a: 2001-99-99", "'2001-99-99' is not a usable number or date"),
        ("a: " + "[" * 100_000, "more than 50 levels"),
        ("x" * (1 << 19), "larger than 256 KiB"),
        ('family: "a\\0b"', "a zero byte"),
    ],
)
def test_what_would_take_memory_time_or_a_traceback_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        FamilyConfig.parse(read_mapping(tmp_path / "a.yaml"), "a.yaml")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="a pipe, a device or a socket"):
        read_mapping(tmp_path / "a.yaml")


def test_patterns_are_told_in_words() -> None:
    text = "".join(path.read_text() for path in (Path(__file__).parents[1] / "effnet").rglob("*.py"))
    assert set(re.findall(r'pattern=r"(.+?)"', text)) == set(FORMS)
    with pytest.raises(ConfigError, match=r'here: runs.0: must be 16 hexadecimal digits \(got "b3"\)'):
        Order.parse({"name": "x", "action": "train", "runs": ["b3"]}, "here")


def test_json_is_read_as_yaml_is_and_told_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"side": 8, "names": ["a", null, true, 1e-05]}')
    assert read_mapping(path) == {"side": 8, "names": ["a", None, True, 1e-05]}
    for text, told in (('{"a": 1, "a": 2}', "twice"), ("[1]", "expected keys and values"), ("{", "a.json")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told) as error:
            read_mapping(path)
        assert "\n" not in str(error.value)
