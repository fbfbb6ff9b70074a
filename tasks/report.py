"""The family's figures and report page, as a Prefect task."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from effnet.family import RESULT, FamilyResult, how_scaled, latency_story
from effnet.files import without_password
from effnet.forecast.findings import FORECAST
from effnet.report.costs import REPORT, add_time, read_costs, total
from effnet.report.facts import CONFIG, Facts, load_facts
from effnet.report.figures import Point, accuracy_figure, cost_figure, learning_figure, noise_story
from effnet.report.members import member_rows
from effnet.report.once import FOLDER, once, strips_once
from effnet.report.outcomes import draw_forecast, outcomes_of
from effnet.report.page import Page, Shown, look, markdown, render
from effnet.report.pictures import Strip, cam_figure, cam_strips, mistake_strip, mistakes_figure, samples_figure
from effnet.report.quality import CLASSES, CONFUSED, calibration_figure, classes_figure, confusion_figure
from effnet.report.use import Links, uses
from effnet.report.words import counted
from effnet.runs import RunFolder
from effnet.search.findings import FIT, SEARCH, STUDY
from effnet.store import publish
from effnet.train.schedule import as_used
from tasks.build import Build
from tasks.records.registry import Registered
from tasks.terminal.flow_page import artifact_key

if TYPE_CHECKING:
    from effnet.report.data import Contents

PAGE = "report.html"
MISTAKES_SHOWN = 12
MAPPED = 3  # images that the networks' maps are drawn of
NETWORKS_MAPPED = 8  # of a family, at most, and the member to use
_PICTURE_SIDE = 128  # of mistakes in the report, pixels


@task(task_run_name="write report", cache_policy=NO_CACHE)
def write_report(build: Build, result: FamilyResult, registered: Sequence[Registered] = ()) -> Facts:
    """Write the family's result, figures and page, those that changed; show them on Prefect's page.

    Args:
        build: the family.
        result: what became of it.
        registered: its members in the registry.
    """
    folder = build.folder
    lasting = [member.model_copy(update={"reused": False}) for member in result.members]
    text = result.model_copy(update={"members": tuple(lasting)}).model_dump_json(indent=2).encode()
    config = build.config.model_dump_json(indent=2).encode() + b"\n"
    publish(folder / CONFIG, config)
    publish(folder / RESULT, text)
    facts = load_facts(build.store, build.key)
    links, model = _links(build, facts, registered)
    # Not the links: the flow run that did the work is the one to lead to, not the last that found nothing to do.
    shown = [look(), text.decode(), config.decode(), model, str(build.store.root), *_findings(folder)]

    def write(_: Sequence[Path]) -> None:
        publish(folder / "environment.json", json.dumps(_environment(), indent=2).encode())
        uri = build.tracker.uri
        tracking = uri if without_password(uri) == uri else None  # a page holds no password
        _write_page(facts, links, model, tracking, build.base)

    once(folder, "report", shown, write, suffixes=["html"])
    facts = facts._replace(costs=read_costs(build.store, facts.family))
    _show(facts, build.tracker.page(build.key, PAGE))
    return facts


def family_metrics(facts: Facts) -> dict[str, float]:
    """Return the numbers of a build, under the names that every run has: those of the member to use."""
    chosen = facts.chosen
    return {
        "top1": chosen.result.top1,
        "top5": chosen.result.top5,
        "params": chosen.result.params,
        "macs": chosen.result.macs,
        "latency_ms": chosen.evaluation.latency_ms,
        "members": len(facts.members),
        **_foretold(facts),
        **({"folds_top1": each.top1} if (each := chosen.result.out_of_fold) else {}),
        "device_hours": sum(total(facts.costs).hours.values()),
        **facts.family.coefficients,
    }


def _foretold(facts: Facts) -> dict[str, float]:
    """Return what was foretold of each member, and what it reached."""
    found: dict[str, float] = {}
    for each in outcomes_of(facts.family):
        name = f"forecast/{each.member.lower()}"
        found |= {f"{name}_top1": each.top1, f"{name}_low": each.low, f"{name}_high": each.high}
        found[f"{name}_reached"] = each.reached
    return found


def report_files(facts: Facts) -> list[Path]:
    """Return all files of a build, to be kept with its record."""
    return sorted(path for path in facts.folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _links(build: Build, facts: Facts, registered: Sequence[Registered]) -> tuple[Links, str | None]:
    """Return the addresses that are known, and what `mlflow models serve` calls the member to use."""
    tracker, member = build.tracker, facts.chosen.result
    ours = next((each for each in registered if each.name.endswith(f"-{member.name.lower()}")), None)
    links = Links(
        family=tracker.page(build.key),
        run=tracker.page(member.run_key),
        model=f"{tracker.pages}/#/models/{ours.name}?workflowType=machine_learning" if ours and tracker.pages else None,
        flow_run=flow_run.ui_url,
    )
    return links, f"{ours.name}/{ours.version}" if ours else None


def _write_page(facts: Facts, links: Links, model: str | None, tracking: str | None, base: Path) -> None:
    """Draw what has changed, and write the page; relative paths of the config begin at `base`."""
    from effnet.report.data import contents  # here, as torch is loaded for pictures alone

    began = time.monotonic()
    used = as_used(facts.chosen.spec.recipe, facts.chosen.run.steps // facts.chosen.run.epochs)
    dataset = facts.store.datasets / facts.manifest.digest
    found = contents(dataset, facts.manifest)
    strips = {"samples": _samples(facts, found), "mistakes": _mistakes(facts, base), "maps": _maps(facts)}
    code = uses(facts, model, tracking)
    figures = list(_figures(facts))
    add_time(facts.folder, REPORT, time.monotonic() - began)  # but for the page itself, which tells it
    facts = facts._replace(costs=read_costs(facts.store, facts.family))
    page = render(Page(facts, member_rows(facts), found, used, figures, strips, code, links))
    publish(facts.folder / PAGE, page.encode())


def _figures(facts: Facts) -> Iterator[Shown]:
    """Draw the figures that the build has the facts for and that have changed; yield them all."""
    yield from _figures_of_members(facts)
    if facts.search:
        caption = "Every trial, the best so far, and what nothing else beats."
        yield Shown(facts.folder / "search.svg", "Search", caption, "search")
    for name in facts.study.baselines if facts.study else ():
        caption = "The paper's figures 3 and 8: top-1 against counted cost; bands: 95 % over images and seeds."
        yield Shown(facts.folder / f"study_{name}.svg", f"Ways of scaling {name}", caption, "study")
    if facts.fit:
        caption = (
            "Candidates in the order of α, β, γ, each stage of the halving on its own scale; bars: 95 % over images"
            f"{' and seeds (orange)' if facts.fit.seeds > 1 else ''}. The rule for ties is stated above."
        )
        yield Shown(facts.folder / "grid.svg", "Grid", caption, "coefficients")
    if facts.forecast:
        svg = draw_forecast(facts.folder, facts.forecast, outcomes_of(facts.family))
        caption = "Crosses: members on val; what they were expected to reach was known before they were trained."
        yield Shown(svg, "Foretold and reached", caption, "forecast")
    yield from _figures_of_chosen(facts)


def _figures_of_members(facts: Facts) -> Iterator[Shown]:
    folder, family = facts.folder, facts.family
    points = [
        Point(each.name, each.params, each.macs, each.scores, family.val_samples, each.latency_ms)
        for each in family.members
    ]
    title, chosen = f"{family.family}: a family {how_scaled(family)}", facts.chosen.result.name
    others = _single_dimensions(facts)
    timeless = [point._replace(latency_ms=0.0) for point in points]  # latencies may be measured again
    seen = [title, chosen, timeless, others]
    once(folder, "accuracy", seen, lambda to: accuracy_figure(points, title, to, others, chosen))
    noise = noise_story(points)
    noise = f"{noise[0].upper()}{noise[1:]}. {chosen} is ringed; point at a member to see its numbers."
    yield _inside(
        facts, "answer", "Accuracy against cost", noise, seen, lambda to: cost_figure(points, "macs", to, chosen=chosen)
    )
    caption = "The paper's figures 1 and 5."
    if facts.study:
        epochs = facts.study.config.epochs, facts.members[0].spec.recipe.epochs
        caption += f" The study's networks were trained for {counted(epochs[0], 'epoch')}, the members for {epochs[1]}."
    draw = functools.partial(cost_figure, points, "params", others=others, chosen=chosen)
    yield _inside(facts, "members", "Accuracy against size", caption, seen, lambda to: draw(targets=to))
    _, svg = once(folder, "latency", [chosen, points], lambda to: cost_figure(points, "latency_ms", to, chosen=chosen))
    yield Shown(svg, "Accuracy against latency", f"{latency_story(family.members)} (Table 4.)", "members")
    curves, samples = {each.result.name: each.curve for each in facts.members}, facts.manifest.samples["minival"]
    _, svg = once(folder, "learning", [curves, samples], lambda to: learning_figure(curves, samples, to))
    yield Shown(svg, "Learning curves", _learning_caption(facts), "members")


def _learning_caption(facts: Facts) -> str:
    seeds = len(facts.members[0].curve.seeds)
    told = f"Top-1 on minival by epoch{f', mean of {seeds} trainings' if seeds > 1 else ''}; bands: 95 % over images"
    told += " and seeds" if seeds > 1 else ""
    told += " of those on the first fold" if facts.config.members.folds > 1 else ""
    told += "; red: the epoch that was kept."
    if any(epoch == 0 for each in facts.members for seed in each.curve.seeds for epoch, _ in seed):
        told += " Epoch 0: a classifier on the features of the weights that it started from, before any training."
    return told


def _figures_of_chosen(facts: Facts) -> Iterator[Shown]:
    """Yield the figures of the member to use."""
    folder, name, names = facts.folder, facts.chosen.result.name, facts.manifest.class_names
    evaluation = facts.chosen.evaluation
    pairs, samples, right = evaluation.confusion, evaluation.class_samples, evaluation.class_right
    facing = [name, pairs, samples, names]
    _, svg = once(
        folder, "confusion", facing, lambda to: confusion_figure(pairs, samples, names, f"{name}: confusion", to)
    )
    shown = f", of the {CONFUSED} classes with most mistakes" if len(names) > CONFUSED else ""
    yield Shown(svg, "Confusion", f"What each class is taken for, in images of val{shown}.", "closely")
    _, svg = once(
        folder, "classes", [name, right, samples, names],
        lambda to: classes_figure(right, samples, names, f"{name}: by class", to),
    )  # fmt: skip
    told = f"the {CLASSES} whose interval ends lowest" if len(names) > CLASSES else "in the order of the dataset"
    yield Shown(
        svg,
        "Classes",
        f"Top-1 of each class and its images, {told}; where bars overlap, a difference may be chance.",
        "closely",
    )
    if bins := evaluation.calibration:
        _, svg = once(
            folder, "calibration", [name, bins], lambda to: calibration_figure(bins, f"{name}: calibration", to)
        )
        caption = "How often it is right against how sure it is, and below of how many images each point is."
        yield Shown(svg, "Calibration", caption, "closely")


def _inside(
    facts: Facts, section: str, title: str, caption: str, seen: Any, draw: Callable[[Sequence[Path]], None]
) -> Shown:
    """Draw a figure that the page alone has."""
    (svg,) = once(facts.folder / FOLDER, section, seen, draw, suffixes=["svg"])
    return Shown(svg, title, caption, section)


def _findings(folder: Path) -> list[str]:
    """Return what search, study, fit and forecast left behind."""
    return [path.read_text() for name in (SEARCH, STUDY, FIT, FORECAST) if (path := folder / name).exists()]


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


def _samples(facts: Facts, found: Contents) -> tuple[Strip, ...]:
    """Return images of the dataset for the page, and draw samples.png."""
    dataset = facts.store.datasets / facts.manifest.digest

    def make() -> list[Strip]:
        from effnet.report.data import EACH, sample_strips, some_samples

        samples = some_samples(dataset, found.classes)
        samples_figure(samples, facts.manifest.class_names, max(EACH.values()), [facts.folder / "samples.png"])
        return sample_strips(samples, found.classes)

    return strips_once(facts.folder, "samples", facts.manifest.digest, make)


def _mistakes(facts: Facts, base: Path) -> tuple[Strip, ...]:
    """Return the surest mistakes of the member to use on val for the page, draw mistakes.png, list more in a file."""
    found, names = facts.chosen.evaluation.mistakes, facts.manifest.class_names
    if not found:
        return ()

    def make() -> list[Strip]:
        from effnet.data.loader import some_images
        from effnet.data.sources.origin import files_of

        dataset = facts.store.datasets / facts.manifest.digest
        pixels, index = some_images(dataset, "val", [sample for sample, *_ in found], _PICTURE_SIDE)
        keys = index.keys.to_pylist()
        files = files_of(facts.manifest.settings.source, (base, facts.store.root.parent), keys)
        images = [files.get(key, key) for key in keys]
        told = [(names[label], names[taken], confidence) for _, label, taken, confidence in found]
        shown = pixels[:MISTAKES_SHOWN], told[:MISTAKES_SHOWN]
        mistakes_figure(*shown, [facts.folder / "mistakes.png"])
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("image", "class", "taken_for", "confidence"))
        rows.writerows((image, *named, f"{sure:.4f}") for image, (*named, sure) in zip(images, told, strict=True))
        publish(facts.folder / "mistakes.csv", text.getvalue().encode())
        return [mistake_strip(*shown, images[:MISTAKES_SHOWN])]

    return strips_once(facts.folder, "mistakes", [facts.manifest.digest, facts.chosen.result.run_key, found], make)


def _maps(facts: Facts) -> tuple[Strip, ...]:
    """Return where the members look in a few images of val, for the page, and draw cam.png."""
    runs = {member.result.name: member.result.run_key for member in facts.members}
    weights = [member.run.weights_sha256 for member in facts.members]
    shown = {name: runs[name] for name in _some(list(runs), facts.chosen.result.name)}

    def make() -> list[Strip]:
        from effnet.data.loader import some_images
        from effnet.data.shards.index import Index
        from effnet.data.shards.manifest import INDEX
        from effnet.evaluation.cam import activation_panel
        from effnet.evaluation.run import load_network

        dataset, names = facts.store.datasets / facts.manifest.digest, facts.manifest.class_names
        every = Index.read(dataset / INDEX, "val").labels
        _, first = np.unique(every, return_index=True)
        places = sorted(
            int(first[place]) for place in np.linspace(0, len(first) - 1, min(MAPPED, len(first))).astype(int)
        )
        side = max(member.result.resolution for member in facts.members)
        pixels, index = some_images(dataset, "val", places, side)
        labels = [names[label] for label in index.labels]
        images = list(zip(labels, pixels, strict=True))
        seen = [
            activation_panel(load_network(RunFolder(facts.store.runs / key)), images, names) for key in shown.values()
        ]
        cam_figure(list(shown), labels, seen, [facts.folder / "cam.png"])
        return cam_strips(list(shown), labels, seen)

    return strips_once(facts.folder, "cam", [facts.manifest.digest, shown, weights], make)


def _some(names: Sequence[str], wanted: str) -> list[str]:
    """Return names evenly through the list, at most NETWORKS_MAPPED and one more: with both ends and the one wanted."""
    if len(names) <= NETWORKS_MAPPED:
        return list(names)
    even = {names[place] for place in np.linspace(0, len(names) - 1, NETWORKS_MAPPED).astype(int)}
    return [name for name in names if name in even | {wanted}]


def _show(facts: Facts, link: str | None) -> None:
    """Put the members, the report in short and a link to it on the flow run's page."""
    family = facts.family.family
    create_markdown_artifact(markdown(facts), key=artifact_key(family, "report"), description=f"The family {family}")
    shown = ["name", "phi", "resolution", "top1", "top5", "params", "macs", "latency_ms", "latency_on"]
    if not facts.shows_top5:
        shown.remove("top5")
    table: list[dict[str, Any]] = [{name: getattr(each, name) for name in shown} for each in facts.family.members]
    create_table_artifact(table, key=artifact_key(family, "members"), description=f"Members of {family}")
    if link:
        create_link_artifact(link, "the report, in MLflow", key=artifact_key(family, "page"), description="The report")
