"""The builds of a family are kept, and the next one is compared with the last that was different."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.family import FamilyResult
from effnet.history import Changes
from effnet.runs import About, RunFolder
from effnet.stages import Stage
from effnet.store import Store
from tasks import history
from tasks.build import Build
from tasks.history import keep_build, read_history, with_changes
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen
from tests.report.made import made_facts
from tests.tiny import VAL

HITS = np.arange(VAL) < VAL - 20


class Family:
    """Builds a family of one store again and again, without training it."""

    def __init__(self, store: Store, config: FamilyConfig, baseline: Architecture) -> None:
        self.store, self.config, self.baseline = store, config, baseline

    def build(self, key: str, manifest: Manifest, hits: np.ndarray = HITS, **changes: object) -> Changes | None:
        """Finish a build whose one member is right about these images; return what it says of the one before."""
        config = self.config.model_copy(update=changes)
        facts = made_facts(self.store, manifest, config, self.baseline, {"B0": [hits]})
        for run in facts.family.members[0].runs:
            about = About(experiment="tiny", name="B0", kind=Stage.MEMBER, labels={}, family=key)
            RunFolder(self.store.runs / run).describe(about)
        build = Build(
            config, self.baseline, manifest, self.store, cast(Tracker, None), Screen(), Path(), key
        )  # fmt: skip
        result = with_changes(build, facts.family.model_copy(update={"key": key}))
        assert FamilyResult.model_validate_json(result.model_dump_json(), strict=True) == result
        keep_build(build, result)
        return result.changes


@pytest.fixture
def family(store: Store, config: FamilyConfig, baseline: Architecture) -> Family:
    return Family(store, config, baseline)


def other_recipe(config: FamilyConfig, epochs: int) -> object:
    return config.recipe.model_copy(update={"epochs": epochs})


def test_a_first_build_has_nothing_to_say_and_the_same_again_says_the_same(family: Family, manifest: Manifest) -> None:
    assert family.build("a" * 16, manifest) is None
    assert family.build("a" * 16, manifest) is None
    assert len(read_history(family.store, "made")) == 1


def test_the_last_build_that_was_different_is_the_one_before(family: Family, manifest: Manifest) -> None:
    family.build("a" * 16, manifest)
    two = family.build("b" * 16, manifest, HITS[::-1].copy(), recipe=other_recipe(family.config, 5))
    assert two is not None
    assert (two.before, [each.told for each in two.config]) == ("a" * 16, ["recipe.epochs 3 → 5"])
    assert two.members[0].images == VAL
    assert two.members[0].verdict == "a tie"
    assert [each.told for each in two.trainings] == ["train members: 1 new"]
    assert family.build("b" * 16, manifest, HITS[::-1].copy(), recipe=other_recipe(family.config, 5)) == two
    back = family.build("a" * 16, manifest)
    assert back is not None
    assert (back.before, [each.told for each in back.config]) == ("b" * 16, ["recipe.epochs 5 → 3"])
    assert [each.told for each in back.trainings] == ["train members: 1 reused"]


def test_other_versions_alone_are_a_change(family: Family, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    family.build("a" * 16, manifest)
    monkeypatch.setattr(history, "version", lambda name: f"{name} 9")
    found = family.build("a" * 16, manifest)
    assert found is not None
    assert "torch" in [each.name for each in found.environment]
    assert (found.config, found.members[0].verdict) == ((), "the same models")


def test_other_data_is_compared_on_the_images_of_val_that_both_have(family: Family, manifest: Manifest) -> None:
    fewer = family.config.data.model_copy(update={"val": 0.1})
    small, _ = write_shards(fewer, family.store.datasets)
    family.build("a" * 16, small, np.ones(small.samples["val"], bool))
    found = family.build("b" * 16, manifest, np.ones(VAL, bool), data=fewer.model_copy(update={"val": 0.2}))
    assert found is not None
    assert {"dataset", "train", "val"} <= {each.name for each in found.data}
    assert found.members[0].images == min(small.samples["val"], VAL)
    assert found.members[0].verdict == "a tie"
    family.store.datasets.joinpath(small.digest, "index.parquet").unlink()
    family.build("a" * 16, manifest)
    gone = family.build("c" * 16, small, np.ones(small.samples["val"], bool))
    assert gone is not None
    assert gone.members[0].verdict == "not comparable: no image of val is the same"


def test_lines_of_another_version_are_passed_over(family: Family, manifest: Manifest) -> None:
    family.build("a" * 16, manifest)
    path = family.store.families / "made.builds.jsonl"
    path.write_text('{"key": 1}\n' + path.read_text() + "not JSON\n")
    assert [each.key for each in read_history(family.store, "made")] == ["a" * 16]
