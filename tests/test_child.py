"""Orders: read strictly, and carried out as who started the process means it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effnet.child import LAUNCHED, carry_out, read_order
from effnet.config import DataConfig, DigitsSource
from effnet.data.shards.part import Part
from effnet.errors import ConfigError
from effnet.order import Order, Rendezvous
from effnet.train import launch

TRAIN: dict[str, Any] = {"name": "b3", "action": "train", "store": "store", "runs": ["0123456789abcdef"]}


def test_an_order_is_the_same_after_a_journey_as_json() -> None:
    part = Part(data=DataConfig(source=DigitsSource()), source="0" * 16, part=0, parts=2)
    place = Rendezvous(address="host:1234", machine=1)
    for order in (
        Order(**TRAIN, size=1.5e300, ranks=2, machines=2, rendezvous=place, until=3),
        Order(name="shards 1/2", action="shard", shards=part),
        Order(name="latency", action="latency", runs=("0123456789abcdef", "f" * 16)),
    ):
        assert read_order(order.model_dump_json()) == order


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[]", "order.json: "),
        ('{"name": "b3"', "order.json: not JSON"),
        (json.dumps(TRAIN | {"ranks": "2"}), "ranks: "),
        (json.dumps(TRAIN | {"rank": 2}), "did you mean 'ranks'?"),
        (json.dumps(TRAIN | {"size": float("nan")}), "order.json: "),
        (json.dumps(TRAIN | {"store": "a\0b"}), "zero byte"),
        (json.dumps(TRAIN | {"rendezvous": {"address": "host:1", "machine": 1}}), "rendezvous.machine must be below"),
    ],
)
def test_a_wrong_order_is_one_line(tmp_path: Path, wrong: str, said: str) -> None:
    path = tmp_path / "order.json"
    path.write_text(wrong)
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        read_order(str(path))
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", Path("a\0b")):
        with pytest.raises(ConfigError, match="no order can be read"):
            read_order(str(path))


def test_ranks_are_launched_wherever_it_runs_but_by_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Order] = []
    monkeypatch.setattr(launch, "launch", launched.append)
    monkeypatch.delenv(LAUNCHED, raising=False)
    order = Order(**TRAIN, ranks=2)
    monkeypatch.setenv("RANK", "0")  # as some clusters set it for every machine
    carry_out(order)
    assert launched == [order]


def test_several_machines_have_to_know_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHED, raising=False)
    with pytest.raises(ConfigError, match="2 machines; add `rendezvous`"):
        carry_out(Order(**TRAIN, machines=2))
    with pytest.raises(ConfigError, match="names no store"):
        carry_out(Order(**TRAIN | {"store": ""}))
