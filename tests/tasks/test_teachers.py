"""Members that learn from a teacher: who it is, the keys of what they are, the order of trainings, what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from effnet.arch import zoo
from effnet.arch.scaling import Coefficients
from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig, Recipe
from effnet.data.shards.manifest import Manifest
from effnet.errors import ConfigError
from effnet.evaluation.classes import save_class_ids
from effnet.evaluation.teacher import find_teacher, teacher_architecture
from effnet.family import MemberResult, build_key, floor_story, plan_members, teacher_story
from effnet.models.build import build as network_of
from effnet.models.weights import save_model, save_weights
from effnet.plan import teachers_of
from effnet.runs import RunFolder, RunResult, RunSpec, Teacher
from effnet.stages import Stage
from effnet.store import Store, sha256_file
from tasks import members as stage
from tasks.build import Build, Training
from tasks.members import Entrant, check_teacher, entrants, teacher_of, train_members
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen
from tests.docs.printed import blocks

SCALED = Coefficients(1.2, 1.2, 1.2)


@pytest.fixture
def make(config: FamilyConfig, baseline: Architecture, manifest: Manifest, store: Store, tmp_path: Path):
    """Make the build of the tiny family with another recipe and members."""

    def make(seeds: int = 1, phi: tuple[float, ...] = (0, 1, 2), **recipe: object) -> Build:
        settings = config.model_copy(
            update={
                "recipe": config.recipe.model_copy(update=recipe),
                "members": config.members.model_copy(update={"seeds": seeds, "phi": phi}),
            }
        )
        nobody = cast(Tracker, SimpleNamespace())
        return Build(settings, baseline, manifest, store, nobody, Screen(), tmp_path)

    return make


def family(build: Build) -> list[Entrant]:
    return entrants(build, plan_members(build.baseline, build.config, SCALED, 10))


def keys(entrant: Entrant) -> list[str]:
    return [training.folder.key for training in entrant.trainings]


def finish(folder: RunFolder) -> None:
    """Write what a finished training leaves."""
    spec = folder.spec()
    save_weights(folder.weights_path, network_of(spec.architecture, spec.num_classes, seed=0))
    result = RunResult(
        key=folder.key, top1=0.5, top5=0.9, loss=1.0, best_epoch=1, epochs=1, steps=1, params=1, macs=1, seconds=1.0,
        weights_sha256=sha256_file(folder.weights_path), environment={},
    )  # fmt: skip
    folder.result_path.write_text(result.model_dump_json())


@pytest.mark.parametrize("name", ["largest", "b2", "B2"])
def test_the_others_learn_from_the_largest_each_seed_from_its_own(make, name: str) -> None:
    b0, b1, b2 = family(make(seeds=2, teacher=name, temperature=3.0))
    assert [each.spec.teacher for each in b2.trainings] == [None, None]
    for member in (b0, b1):
        assert [each.spec.teacher for each in member.trainings] == [
            Teacher(run=key, architecture=b2.member.architecture) for key in keys(b2)
        ]
        assert {each.spec.recipe.temperature for each in member.trainings} == {3.0}
    assert keys(family(make(seeds=2))[2]) == keys(b2)  # it is the same training as without
    assert not {*keys(family(make(seeds=2))[0])} & {*keys(b0)}


def test_another_member_can_teach_the_larger_ones_too(make) -> None:
    b0, b1, b2 = family(make(teacher="b1"))
    assert b1.trainings[0].spec.teacher is None
    assert [each.trainings[0].spec.teacher.run for each in (b0, b2)] == keys(b1) * 2


def test_a_member_that_rounding_makes_the_teachers_equal_is_its_equal(make) -> None:
    build = make(phi=(0, 1, 1.01), teacher="largest")
    members = plan_members(build.baseline, build.config, SCALED, 10)
    twin = members[1].model_copy(update={"name": "B2"})
    _, one, two = entrants(build, [members[0], members[1], twin])
    assert keys(one) == keys(two)


def test_the_one_who_teaches_is_trained_before_the_others(make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(stage, "train", lambda _build, trainings: calls.append([each.folder.key for each in trainings]))
    taught = family(make(seeds=2, teacher="largest"))
    train_members(make(), taught)
    assert calls == [keys(taught[2]), [*keys(taught[0]), *keys(taught[1])]]
    calls.clear()
    alone = family(make(seeds=2))
    train_members(make(), alone)
    assert calls == [[], [key for each in alone for key in keys(each)]]


def test_only_members_learn_from_a_teacher(make) -> None:
    taught, alone = make(teacher="largest", teacher_weight=0.9, temperature=2.0), make()
    trainings = [
        build.training(Stage.FIT, "fit", build.baseline, build.recipe, {}).folder.key for build in (taught, alone)
    ]
    assert trainings[0] == trainings[1]


def test_a_run_knows_its_teacher_by_its_key_or_its_weights_and_not_by_a_name(make) -> None:
    spec = family(make(teacher="largest"))[0].trainings[0].spec
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec

    def key(by: Teacher, **recipe: object) -> str:
        changed = {"teacher": by, "recipe": spec.recipe.model_copy(update=recipe)}
        return spec.model_copy(update=changed).key()

    assert spec.teacher is not None
    arch = spec.teacher.architecture
    assert key(spec.teacher, teacher="../elsewhere") == spec.key()
    file = Teacher(architecture=arch, path="a.safetensors", sha256="ab" * 32)
    assert key(file) == key(file.model_copy(update={"path": "b.pth"}))
    others = [
        file,
        file.model_copy(update={"sha256": "cd" * 32}),
        file.model_copy(update={"architecture": spec.architecture}),
        file.model_copy(update={"outputs": (1, 0, *range(2, 10))}),
        spec.teacher.model_copy(update={"run": "0" * 16}),
    ]
    found = {key(each) for each in others} | {key(file, teacher_weight=0.4), key(file, temperature=1.5), spec.key()}
    assert len(found) == 8


def test_a_familys_key_tells_its_teacher_and_is_as_before_without(make) -> None:
    plain, taught = make(), make(teacher="largest")
    found = {build_key(each.config, each.baseline, "0" * 16) for each in (plain, taught, make(teacher="b1"))}
    assert len(found) == 3


def outside(build: Build) -> Teacher:
    first, teacher = teacher_of(build, None)
    assert first is None
    assert teacher is not None
    assert {each.spec.teacher for entrant in family(build) for each in entrant.trainings} == {teacher}
    return teacher


def test_a_finished_run_teaches_all_by_its_key_or_its_folder(make, store: Store, tmp_path: Path) -> None:
    folder = family(make())[1].trainings[0].folder
    with pytest.raises(ConfigError, match=f"^recipe.teacher: run {folder.key} is not finished"):
        check_teacher(make(teacher=folder.key))
    with pytest.raises(ConfigError, match=f"^recipe.teacher: run {folder.key} is not finished"):
        check_teacher(make(teacher=str(folder.path)))
    finish(folder)
    arch = folder.spec().architecture
    for name in (folder.key, folder.key[:8], str(folder.path), str(folder.weights_path)):
        assert outside(make(teacher=name)) == Teacher(run=folder.key, architecture=arch)
        assert teacher_architecture(name, tmp_path, store) == arch
    other = tmp_path / "other"  # a run of another store: by its weights
    shutil.copytree(store.runs, other / "runs")
    (other / "datasets").symlink_to(store.datasets)
    path = other / "runs" / folder.key
    sha256 = sha256_file(folder.weights_path)
    assert outside(make(teacher=f"other/runs/{folder.key}")) == Teacher(
        architecture=arch, path=str(path / "model.safetensors"), sha256=sha256
    )


def test_the_beginning_of_a_key_must_mean_one_thing(make, store: Store, tmp_path: Path) -> None:
    folder = family(make())[1].trainings[0].folder
    twin = folder.path.with_name(folder.key[:6] + "0" * 10)
    (tmp_path / folder.key[:8]).mkdir()
    with pytest.raises(ConfigError, match=rf"is a run of .*, and is here: write ./{folder.key[:8]} or {folder.key}"):
        teacher_architecture(folder.key[:8], tmp_path, store)
    shutil.copytree(folder.path, twin)
    with pytest.raises(ConfigError, match=rf"'{folder.key[:5]}' may be any of 2 runs \(.*\); give more of the key"):
        teacher_architecture(folder.key[:5], tmp_path, store)


def test_a_model_folder_teaches_if_its_classes_are_the_datasets(
    make, store: Store, manifest: Manifest, baseline: Architecture, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", network_of(baseline, 12, seed=0))
    names = [f"other {number}" for number in range(2)] + [*reversed(manifest.classes)]
    save_class_ids(tmp_path / "model", manifest.model_copy(update={"classes": tuple(names)}))
    teacher, told = find_teacher("model", tmp_path, store, manifest)
    assert teacher.outputs == (11, 10, 9, 8, 7, 6, 5, 4, 3, 2)
    assert "10 of the network's 12 classes, matched by id" in told
    save_class_ids(tmp_path / "model", manifest.model_copy(update={"classes": (*names[:-1], "?")}))
    with pytest.raises(ConfigError, match=r"^recipe.teacher: model: .*does not have 1 of its 10 classes \(0\)"):
        check_teacher(make(teacher="model"))
    (tmp_path / "model/classes.json").unlink()
    with pytest.raises(ConfigError, match="the network has 12 classes, the dataset has 10, and nothing says which"):
        check_teacher(make(teacher="model"))


def test_a_weights_file_teaches_if_its_name_tells_its_network(store: Store, manifest: Manifest, tmp_path: Path) -> None:
    arch = zoo.get("efficientnet_lite0")
    path = tmp_path / "efficientnet_lite0-digits.safetensors"
    save_weights(path, network_of(arch, 10, seed=0))
    teacher, told = find_teacher(path.name, tmp_path, store, manifest)
    assert teacher == Teacher(architecture=arch, path=str(path), sha256=sha256_file(path))
    assert "nothing says which classes the network has" in told
    for other in ("architecture.json", "config.json"):  # files of another model in the same folder
        (tmp_path / other).write_text("{}")
        assert find_teacher(path.name, tmp_path, store, manifest) == (teacher, told)
    path.rename(tmp_path / "best.safetensors")
    with pytest.raises(ConfigError, match=r"best\.safetensors: its name does not tell one network"):
        find_teacher("best.safetensors", tmp_path, store, manifest)


def test_what_cannot_teach_is_told_in_one_line(make, baseline: Architecture) -> None:
    with pytest.raises(
        ConfigError, match=r"'b7' is no member of the family, no run of .* by its key or .*, and no run folder"
    ):
        check_teacher(make(teacher="b7"))
    build = make(teacher="largest")
    grey = Teacher(
        run="0" * 16,
        architecture=baseline.model_copy(update={"in_channels": 1, "pixel_mean": (0.0,), "pixel_std": (1.0,)}),
    )
    with pytest.raises(ConfigError, match="B0: its teacher takes images of 1 channels, it takes 3"):
        build.training(Stage.MEMBER, "B0", baseline, build.recipe, {}, teacher=grey)
    for wrong, told in {
        "teacher_weight: 0": "greater than 0",
        "teacher_weight: 1.5": "less than or equal to 1",
        "temperature: 0": "greater than 0",
        "teacher: ''": "at least 1 character",
    }.items():
        name, _, value = wrong.partition(": ")
        with pytest.raises(ConfigError, match=told):
            Recipe.parse({name: "" if value == "''" else float(value)}, "recipe")


def test_alone_a_member_learns_as_in_its_family(make) -> None:
    build = make(teacher="largest", phi=(0, 1))
    small, large = (entrant.member for entrant in family(build))
    build = dataclasses.replace(build, config=build.config.model_copy(update={"coefficients": tuple(SCALED)}))
    first, teacher = teacher_of(build, small)
    assert first is not None
    assert first.folder.key == keys(family(build)[1])[0]
    assert teacher == family(build)[0].trainings[0].spec.teacher
    assert teacher_of(build, large) == (None, None)


def test_the_printed_recipe_has_a_teacher() -> None:
    (printed,) = (block.text for block in blocks("docs/training.md", "yaml") if "teacher:" in block.text)
    recipe = Recipe.parse(yaml.safe_load(printed)["recipe"], "recipe")
    assert (recipe.base, recipe.teacher, recipe.teacher_weight, recipe.temperature) == ("modern", "largest", 0.5, 1.0)


def test_the_story_names_who_learnt_from_whom() -> None:
    def member(name: str, teacher: str | None, *, kept: bool = False) -> MemberResult:
        return MemberResult(
            name=name, phi=0.0, resolution=8, params=1, macs=1, top1=0.5, top5=0.9, latency_ms=1.0, seconds=1.0,
            run_key="0" * 16, mlflow_run_id=None, reused=False, teacher=teacher,
            features_kept=kept, features_alone=0.9 if kept else None,
        )  # fmt: skip

    assert teacher_story([member("B0", None)]) == ""
    told = teacher_story([member("B0", "B2"), member("B1", "B2"), member("B2", None)])
    assert told == "B0, B1 learnt from B2 as well: what they reach is not due to scale alone."
    probes = [member("B0", "B1", kept=True), member("B1", None, kept=True)]
    assert teacher_story(probes) == ""  # a probe of the weights' features has no teacher
    assert floor_story(probes).endswith(" B0, B1 are just that: no epoch was better on minival.")


def test_a_teacher_needs_somebody_to_teach(make) -> None:
    build: Build = make(teacher="largest")
    alone = build.config.model_copy(update={"members": build.config.members.model_copy(update={"phi": (0.0,)})})
    members = plan_members(build.baseline, alone, SCALED, 10)
    with pytest.raises(ConfigError, match=r"recipe\.teacher: B0 has nobody to teach"):
        teachers_of(members, "largest", None)
    with pytest.raises(ConfigError, match=r"recipe\.teacher: B0 has nobody to teach"):
        stage.School.of(dataclasses.replace(build, config=alone), members)


def test_a_teachers_forward_pass_is_work(make) -> None:
    build: Build = make(teacher="largest")
    b0, _, b2 = (entrant.trainings[0] for entrant in family(build))
    sized: list[Training] = [b0, family(make())[0].trainings[0]]
    assert sized[0].size - sized[1].size == pytest.approx(b2.cost.macs * b0.epochs / 3)
