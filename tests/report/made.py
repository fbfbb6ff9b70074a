"""A finished family without a training: hits, scores and findings as they are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effnet.answer import conclude
from effnet.arch.cost import count
from effnet.arch.scaling import Multipliers, scale
from effnet.arch.spec import Architecture
from effnet.champion import Contender
from effnet.config import FamilyConfig, Recipe
from effnet.data.shards.manifest import Manifest
from effnet.family import FamilyResult, MemberResult, SeedResult
from effnet.hits import keep_hits
from effnet.report.costs import StageCost
from effnet.report.data import Contents
from effnet.report.facts import Facts, MemberFacts
from effnet.report.figures import Curve
from effnet.report.members import member_rows
from effnet.report.page import Page, Shown, render
from effnet.report.use import Links, uses
from effnet.runs import Evaluation, RunFolder, RunResult, RunSpec
from effnet.store import Store, publish
from effnet.train.schedule import as_used

SECONDS = 90.0
NOWHERE = Links()
EMPTY = Contents((), 10, ("No image was left out.",))


def hits(right: int, images: int = 300) -> np.ndarray:
    """Return hits of which the first `right` are right, (images,)."""
    return np.arange(images) < right


def made_facts(
    store: Store,
    manifest: Manifest,
    config: FamilyConfig,
    baseline: Architecture,
    members: Mapping[str, Sequence[np.ndarray]],
) -> Facts:
    """Return the facts of a family whose members, from small to large, are right about these images, seed by seed."""
    found = [
        _member(store, manifest, config, scale(baseline, Multipliers(1, 1 + place / 2, 1)), name, rows)
        for place, (name, rows) in enumerate(members.items())
    ]
    contenders = [
        Contender(one.result.name, np.stack(rows), one.result.macs)
        for one, rows in zip(found, members.values(), strict=True)
    ]
    answer, growth = conclude(contenders, found[0].evaluation.class_samples)
    images = len(next(iter(members.values()))[0])
    family = FamilyResult(
        family="made", key="k" * 16, dataset=manifest.digest, val_samples=images,
        coefficients={"alpha": 1.2, "beta": 1.1, "gamma": 1.15}, members=tuple(each.result for each in found),
        answer=answer, growth=growth,
    )  # fmt: skip
    costs = (StageCost("train members", len(found), 0, {"one CPU core": 0.5}),)
    return Facts(family, config, manifest, tuple(found), None, None, None, costs, store.families / "made", store)


def made_page(facts: Facts, figures: Sequence[Shown] = (), links: Links = NOWHERE, found: Contents = EMPTY) -> str:
    """Return the page of made facts, without pictures."""
    used = as_used(facts.chosen.spec.recipe, facts.chosen.run.steps // facts.chosen.run.epochs)
    return render(Page(facts, member_rows(facts), found, used, figures, {}, uses(facts), links))


def _member(
    store: Store, manifest: Manifest, config: FamilyConfig, arch: Architecture, name: str, rows: Sequence[np.ndarray]
) -> MemberFacts:
    recipe: Recipe = config.recipe.sized(manifest.samples["train"])
    specs = [
        RunSpec(architecture=arch, dataset=manifest.digest, num_classes=10, recipe=recipe, seed=seed)
        for seed in range(len(rows))
    ]
    cost = count(arch, 10)
    results = [_run(RunFolder.create(store, spec), spec, cost.params, cost.macs, row) for spec, row in
               zip(specs, rows, strict=True)]  # fmt: skip
    evaluation = _evaluation(specs[0], rows[0])
    result = MemberResult(
        name=name, phi=float(name[1:]), resolution=arch.resolution, params=cost.params, macs=cost.macs,
        top1=float(np.mean(rows)), top5=0.999, latency_ms=2.0, seconds=SECONDS, run_key=specs[0].key(),
        mlflow_run_id=None, reused=False,
        seeds=tuple(SeedResult(run_key=spec.key(), top1=float(row.mean())) for spec, row in
                    zip(specs, rows, strict=True)),
    )  # fmt: skip
    curve = Curve(tuple(((1, 0.5), (2, 0.8)) for _ in rows), 2)
    return MemberFacts(result, specs[0], results[0], evaluation, curve)


def _run(folder: RunFolder, spec: RunSpec, params: int, macs: int, row: np.ndarray) -> RunResult:
    epochs = spec.recipe.epochs
    result = RunResult(
        key=folder.key, top1=float(row.mean()), top5=1.0, loss=0.1, best_epoch=2, epochs=epochs, steps=33 * epochs,
        params=params, macs=macs, seconds=SECONDS, weights_sha256="0" * 64, environment={"device": "a made device"},
    )  # fmt: skip
    publish(folder.result_path, result.model_dump_json().encode())
    keep_hits(folder.hits_path, spec.dataset, result.weights_sha256, "val", row)
    return result


def _evaluation(spec: RunSpec, row: np.ndarray) -> Evaluation:
    samples = [len(row) // 10] * 10
    right = [int(part.sum()) for part in np.array_split(row, 10)]
    return Evaluation(
        key=spec.key(), dataset=spec.dataset, split="val", samples=len(row), top1=float(row.mean()), top5=0.999,
        loss=0.1, calibration_error=0.02, class_samples=tuple(samples), class_right=tuple(right),
        confusion=tuple((label, label, hit) for label, hit in enumerate(right)), resolutions={8: float(row.mean())},
        latency_ms=2.0, images_per_second=100.0, best_batch=8, environment={},
    )  # fmt: skip
