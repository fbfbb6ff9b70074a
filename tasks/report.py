"""The family's figures and report page, as a Prefect task."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from effnet.family import FamilyResult, how_scaled, latency_story
from effnet.report.facts import CONFIG, RESULT, Facts, load_facts
from effnet.report.figures import (
    Point,
    accuracy_figure,
    calibration_figure,
    classes_figure,
    confusion_figure,
    latency_figure,
    learning_figure,
)
from effnet.report.page import Shown, markdown, member_rows, page
from effnet.runs import RunFolder
from effnet.store import publish
from tasks.build import Build
from tasks.terminal.flow_page import artifact_key

PAGE = "report.html"
MISTAKES_SHOWN = 12
_PICTURE_SIDE = 128  # of mistakes in the report, pixels


@task(task_run_name="write report", cache_policy=NO_CACHE)
def write_report(build: Build, result: FamilyResult) -> Facts:
    """Write the family's result, figures and page, unless they are there; show them on Prefect's page."""
    folder = build.folder
    lasting = [member.model_copy(update={"reused": False}) for member in result.members]
    text = result.model_copy(update={"members": tuple(lasting)}).model_dump_json(indent=2).encode()
    config = build.config.model_dump_json(indent=2).encode() + b"\n"
    done = (folder / PAGE).exists() and (folder / RESULT).exists() and (folder / RESULT).read_bytes() == text
    publish(folder / CONFIG, config)
    publish(folder / RESULT, text)
    facts = load_facts(build.store, build.key)
    if not done:
        publish(folder / "environment.json", json.dumps(_environment(), indent=2).encode())
        figures = list(_figures(facts))
        publish(folder / PAGE, page(facts, figures).encode())
    _show(facts, build.tracker.page(build.key, PAGE))
    return facts


def family_metrics(facts: Facts) -> dict[str, float]:
    """Return the numbers of a build, under the names that every run has: those of its best member."""
    best = facts.best
    return {
        "top1": best.result.top1,
        "top5": best.result.top5,
        "params": best.result.params,
        "macs": best.result.macs,
        "latency_ms": best.evaluation.latency_ms,
        "members": len(facts.members),
        "train_hours": sum(cost.hours for cost in facts.costs),
        **facts.family.coefficients,
    }


def report_files(facts: Facts) -> list[Path]:
    """Return all files of a build, to be kept with its record."""
    return sorted(path for path in facts.folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _figures(facts: Facts) -> Iterator[Shown]:
    """Draw all figures that the build has the facts for."""
    folder, family, best = facts.folder, facts.family, facts.best
    names = facts.manifest.class_names
    points = [
        Point(each.name, each.params, each.macs, each.scores, family.val_samples, each.latency_ms)
        for each in family.members
    ]
    title = f"{family.family}: a family {how_scaled(family)}"
    accuracy_figure(points, title, _targets(folder, "accuracy"), _single_dimensions(facts))
    caption = "The paper's figures 1 and 5. Point at a member, or at its row, to see its numbers."
    if facts.study:
        epochs = facts.study.config.epochs, facts.members[0].spec.recipe.epochs
        caption += f" The study's networks were trained for {epochs[0]} epochs, the members for {epochs[1]}."
    yield Shown(folder / "accuracy.svg", "Accuracy against cost and size", caption, "members")
    latency_figure(points, "accuracy against latency", _targets(folder, "latency"))
    yield Shown(
        folder / "latency.svg", "Accuracy against latency", f"{latency_story(family.members)} (Table 4.)", "members"
    )
    curves = {member.result.name: member.curve for member in facts.members}
    learning_figure(curves, "learning curves", _targets(folder, "learning"))
    yield Shown(
        folder / "learning.svg",
        "Learning curves",
        "Top-1 on minival by epoch, of the training whose model is registered; its best epoch is kept.",
        "members",
    )
    if facts.search:
        caption = "Every trial, the best so far, and what nothing else beats."
        yield Shown(folder / "search.svg", "Search", caption, "search")
    for name in facts.study.baselines if facts.study else ():
        caption = "The paper's figures 3 and 8: top-1 against counted cost; bands: 95 % over images and seeds."
        yield Shown(folder / f"study_{name}.svg", f"Ways of scaling {name}", caption, "study")
    if facts.fit:
        caption = "Each candidate as far as it was trained; the rule for ties is stated above."
        yield Shown(folder / "grid.svg", "Grid", caption, "coefficients")
    pairs, evaluation = best.evaluation.confusion, best.evaluation
    confusion_figure(
        pairs, evaluation.class_samples, names, f"{best.result.name}: confusion", _targets(folder, "confusion")
    )
    yield Shown(folder / "confusion.svg", "Confusion", "What each class is taken for, in percent of the class.", "best")
    classes_figure(
        evaluation.class_right,
        evaluation.class_samples,
        names,
        f"{best.result.name}: by class",
        _targets(folder, "classes"),
    )
    yield Shown(folder / "classes.svg", "Classes", "Top-1 of each class, worst first.", "best")
    if evaluation.calibration:
        calibration_figure(evaluation.calibration, f"{best.result.name}: calibration", _targets(folder, "calibration"))
        yield Shown(folder / "calibration.svg", "Calibration", "How often it is right against how sure it is.", "best")
    if evaluation.mistakes:
        _draw_mistakes(facts)
        caption = "What it is surest of and wrong about: look here for wrong labels first. mistakes.csv has up to 100."
        yield Shown(folder / "mistakes.svg", "Mistakes", caption, "best")
    _draw_activation_maps(facts)
    caption = "Where the networks see the class that they find (the paper's figure 7)."
    yield Shown(folder / "cam.svg", "Class activation maps", caption, "best")


def _environment() -> dict[str, Any]:
    """Return the machine and the versions of all packages."""
    packages = {package.name: package.version for package in distributions()}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _targets(folder: Path, name: str) -> Sequence[Path]:
    return [folder / f"{name}.png", folder / f"{name}.svg"]


def _single_dimensions(facts: Facts) -> dict[str, list[Point]]:
    """Return the networks of the study of the family's own baseline, by way of scaling."""
    if not facts.study:
        return {}
    own = facts.members[0].spec.architecture.stages
    for rows in facts.study.baselines.values():
        base = RunFolder(facts.store.runs / rows[0].runs[0]).spec().architecture
        if base.stages != own:
            continue
        found: dict[str, list[Point]] = {}
        for row in rows:
            point = Point("", row.params, row.macs, row.top1, facts.family.val_samples)
            found.setdefault(row.strategy, []).append(point)
        return found
    return {}


def _draw_mistakes(facts: Facts) -> None:
    """Draw the surest mistakes of the best member on val, and list more of them in mistakes.csv."""
    from effnet.data.loader import some_images
    from effnet.report.figures import mistakes_figure

    evaluation, names = facts.best.evaluation, facts.manifest.class_names
    dataset, found = facts.store.datasets / facts.manifest.digest, evaluation.mistakes
    samples = [sample for sample, *_ in found]
    pixels, index = some_images(dataset, "val", samples, _PICTURE_SIDE)
    keys = index.keys.to_pylist()
    told = [(names[label], names[taken], confidence) for _, label, taken, confidence in found]
    mistakes_figure(pixels[:MISTAKES_SHOWN], told[:MISTAKES_SHOWN], _targets(facts.folder, "mistakes"))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "class", "taken_for", "confidence"))
    rows.writerows((key, *named, f"{sure:.4f}") for key, (*named, sure) in zip(keys, told, strict=True))
    publish(facts.folder / "mistakes.csv", text.getvalue().encode())


def _draw_activation_maps(facts: Facts) -> None:
    """Draw where networks look in three images of val: the study's ways of scaling, or the first and last members."""
    from effnet.data.loader import some_images
    from effnet.evaluation.cam import activation_panel
    from effnet.evaluation.run import load_network
    from effnet.report.figures import cam_figure

    runs = {member.result.name: member.result.run_key for member in facts.members}
    names = list(dict.fromkeys([next(iter(runs)), facts.best.result.name, list(runs)[-1]]))
    chosen = {name: runs[name] for name in names}
    for rows in (facts.study.baselines if facts.study else {}).values():
        largest = {row.strategy: row.runs[0] for row in rows if row.factor == rows[-1].factor}
        chosen = {"baseline": rows[0].runs[0], **largest}
        break
    side = max(member.result.resolution for member in facts.members)
    number = min(3, facts.manifest.samples["val"])
    pixels, index = some_images(facts.store.datasets / facts.manifest.digest, "val", range(number), side)
    labels = [facts.manifest.class_names[label] for label in index.labels]
    images = list(zip(labels, pixels, strict=True))
    seen = [
        activation_panel(load_network(RunFolder(facts.store.runs / key)), images, facts.manifest.class_names)
        for key in chosen.values()
    ]
    cam_figure(list(chosen), labels, seen, _targets(facts.folder, "cam"))


def _show(facts: Facts, link: str | None) -> None:
    """Put the members, the report in short and a link to it on the flow run's page."""
    family = facts.family.family
    create_markdown_artifact(markdown(facts), key=artifact_key(family, "report"), description=f"The family {family}")
    shown = ("name", "phi", "resolution", "top1", "top5", "params", "macs", "latency_ms", "latency_on")
    table: list[dict[str, Any]] = [{name: row[name] for name in shown} for row in member_rows(facts)]
    create_table_artifact(table, key=artifact_key(family, "members"), description=f"Members of {family}")
    if link:
        create_link_artifact(link, "the report, in MLflow", key=artifact_key(family, "page"), description="The report")
