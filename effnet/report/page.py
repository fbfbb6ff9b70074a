"""The family's report: one HTML page that needs nothing else, and the same in brief as Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effnet.champion import RULE, standing_story
from effnet.config import Recipe
from effnet.family import (
    floor_story,
    folds_story,
    foretold_story,
    growth_story,
    how_scaled,
    latency_story,
    left_out_story,
    teacher_story,
)
from effnet.history import told
from effnet.report.costs import told_hours, told_total, total
from effnet.report.facts import Facts
from effnet.report.members import MemberRow, member_rows
from effnet.report.outcomes import calibration, outcomes_of
from effnet.report.pictures import Strip
from effnet.report.quality import hardest_class, sizes_story
from effnet.report.recipe import config_yaml, recipe_rows
from effnet.report.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from effnet.report.use import Code, Links
from effnet.report.words import counted, hours, short
from effnet.search.study import balance
from effnet.store import digest

if TYPE_CHECKING:
    from effnet.report.data import Contents

VERSIONS = ("effnet", "torch", "prefect", "mlflow", "numpy", "pyarrow", "webdataset")
# What figures are coloured with, as variables of the page, which has others in the dark.
_COLOURS = {
    "#000000": "ink", "#ffffff": "paper", "#b0b0b0": "grid", "#b9cde0": "bar", "#cccccc": "grid",
    BLUE: "blue", ORANGE: "orange", GREEN: "green", RED: "red", PINK: "pink", SKY: "sky", GREY: "soft",
}  # fmt: skip
_LETTERS = re.compile(r"'DejaVu Sans'[^;\"]*?sans-serif")


class Shown(NamedTuple):
    """A figure of the page."""

    file: Path  # .svg
    title: str
    caption: str
    section: str


class Page(NamedTuple):
    """What a page is made of."""

    facts: Facts
    rows: Sequence[MemberRow]
    contents: Contents
    used: Recipe  # the recipe of the members, as it was carried out
    figures: Sequence[Shown]
    strips: Mapping[str, Sequence[Strip]]  # pictures: "samples", "mistakes", "maps"
    code: Sequence[Code]
    links: Links


def render(page: Page) -> str:
    """Return the report as HTML, everything inside."""
    facts = page.facts
    drawn: dict[str, list[dict[str, Any]]] = {}
    for number, figure in enumerate(page.figures):
        svg = inline_svg(figure.file.read_text(encoding="utf-8"), f"f{number}", figure.title)
        drawn.setdefault(figure.section, []).append(
            {"svg": svg, "title": figure.title, "caption": figure.caption, "wide": _is_wide(svg)}
        )
    study = facts.study
    return str(
        _environment()
        .get_template("family.html")
        .render(
            page=page,
            facts=facts,
            family=facts.family,
            chosen=facts.chosen,
            row=next(row for row in page.rows if row.result.name == facts.chosen.result.name),
            figures=drawn,
            config=config_yaml(facts.config, page.used),
            recipe=recipe_rows(page.used, facts.chosen.run),
            versions={name: version(name) for name in VERSIONS},
            rule=RULE,
            standing=standing_story(facts.family.standings, facts.chosen.result.name),
            story=coefficients_story(facts),
            balances={name: balance(gains) for name, gains in study.gains.items() if gains} if study else {},
            hardest=hardest_class(facts.chosen.evaluation, facts.manifest.class_names),
            sizes=sizes_story(facts.chosen.evaluation, facts.chosen.result.resolution),
            latency=latency_story(facts.family.members),
            floor=floor_story(facts.family.members),
            grown=growth_story(facts.family.members),
            folds=folds_story(facts.family.members),
            taught=teacher_story(facts.family.members),
            left_out=left_out_story(facts.family.left_out),
            outcomes=outcomes_of(facts.family),
            calibrated=told_calibration(facts),
            scaled=how_scaled(facts.family),
            changed=told(facts.family.changes) if facts.family.changes else [],
            **_costs(facts),
            total=told_total(facts.costs),
            samples=facts.manifest.samples,
            store=shlex.quote(str(facts.store.root.absolute())),
        )
    )


def told_calibration(facts: Facts) -> str:
    """Say how good the forecasts of the whole store were; empty where none can be judged yet."""
    found = calibration(facts.outcomes)
    return found.told() if found else ""


def _costs(facts: Facts) -> dict[str, Any]:
    """Return the rows of the table of costs; where there is one device only, its head names it for all rows."""
    whole = total(facts.costs)
    rows, devices = (*facts.costs, whole), list(whole.hours)
    if len(devices) != 1:
        return {"costs": [(cost, told_hours(cost)) for cost in rows], "one_device": None}
    places = 4 if whole.hours[devices[0]] < 1 else 2
    shown = [f"{sum(cost.hours.values()):,.{places}f}" if cost.hours else "" for cost in rows]
    return {"costs": list(zip(rows, shown, strict=True)), "one_device": f"hours of {devices[0]}"}


def look() -> str:
    """Return what changes when pages are to look different: a digest of the templates."""
    folder = files("effnet.report") / "templates"
    return digest({each.name: each.read_text(encoding="utf-8") for each in folder.iterdir() if each.is_file()})


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("effnet.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "short": short,
        "hours": hours,
        "comma": "{:,}".format,
    }
    environment.globals["counted"] = counted
    return environment


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def markdown(facts: Facts) -> str:
    """Return the report in brief."""
    lines = [f"# {facts.family.family}", "", *_answer(facts), _summary(facts), "", *_changed(facts)]
    folds = folds_story(facts.family.members)
    heads = ["φ", "pixels", "top-1", *(["out of fold"] if folds else []), *(["top-5"] if facts.shows_top5 else [])]
    heads += ["params", "ratio", "MACs", "ratio", "latency, 1 thread"]
    lines += [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for row in member_rows(facts):
        member = row.result
        top5 = f"{member.top5:.2%} | " if facts.shows_top5 else ""
        own = f"{each.top1:.2%} ({each.low:.1%} to {each.high:.1%}) | " if (each := member.out_of_fold) else ""
        lines.append(
            f"| {member.name} | {member.phi:g} | {member.resolution} | {member.top1:.2%} "
            f"({row.band.low:.1%} to {row.band.high:.1%}) | {own}{top5}"
            f"{member.params:,} | {row.params_ratio:.2f} | {member.macs:,} | {row.macs_ratio:.2f} | "
            f"{member.latency_ms:.2f} ms |"
        )
    members = facts.family.members
    lines += ["", f"In brackets 95 % intervals over {facts.family.val_samples:,} images of val.", ""]
    lines += [folds, latency_story(members), floor_story(members), growth_story(members), teacher_story(members)]
    lines += [foretold_story(members), left_out_story(facts.family.left_out)]
    lines += [
        "",
        f"Cost: {told_total(facts.costs)}.",
        "",
        "| stage | trainings | reused | hours |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {cost.stage} | {cost.trainings or ''} | {cost.reused or ''} | {told_hours(cost) or 'not measured'} |"
        for cost in (*facts.costs, total(facts.costs))
    ]
    if facts.family.coefficients:
        alpha, beta, gamma = facts.family.coefficients.values()
        lines += ["", f"α {alpha:g}, β {beta:g}, γ {gamma:g}: {coefficients_story(facts)}", ""]
    return "\n".join(lines)


def coefficients_story(facts: Facts) -> str:
    """Say where α, β, γ come from."""
    fit = facts.fit
    if facts.config.coefficients or fit is None:
        return "stated in the config."
    told = f"the grid of {counted(fit.points, 'point')} trained {counted(len(fit.candidates), 'network')}"
    return f"{told}; {fit.told}. Chosen: {fit.rule}."


def inline_svg(text: str, prefix: str, title: str) -> str:
    """Return an SVG file as an element of a page: no prologue, ids of its own, in its colours, described in words."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'(xlink:)?href="#', f'href="#{prefix}-', text)
    text = re.sub(r'width="([\d.]+)pt"', _natural_width, text, count=1)
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r"\b(fill|stroke): (#[0-9a-f]{6})\b", _coloured, text)
    text = _LETTERS.sub("var(--letters)", text)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _coloured(match: re.Match[str]) -> str:
    name = _COLOURS.get(match[2])
    return f"{match[1]}: var(--{name})" if name else match[0]


def _natural_width(match: re.Match[str]) -> str:
    width = float(match[1]) * 4 / 3  # a point is 4/3 of a pixel
    return f'style="max-width: {1.25 * width:.0f}px; min-width: {0.75 * width:.0f}px"'


def _is_wide(svg: str) -> bool:
    """Say whether a figure needs a row of its own."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    return bool(box and float(box[1]) > 500)


def _answer(facts: Facts) -> list[str]:
    """Return what the family says in the end, as paragraphs."""
    answer, growth = facts.family.answer, facts.family.growth
    told = [f"**Use {answer.member}**: {answer.because}."] if answer else []
    told += [f"{growth.told}."] if growth else []
    return [line for paragraph in told for line in (paragraph, "")]


def _changed(facts: Facts) -> list[str]:
    """Return what is different from the build before, as a list; nothing for a first build."""
    if (changes := facts.family.changes) is None:
        return []
    return [f"Since {changes.when}:", "", *(f"* {what}: {words}" for what, words in told(changes)), ""]


def _summary(facts: Facts) -> str:
    counts, members = facts.manifest.samples, counted(len(facts.members), "member")
    classes = counted(len(facts.manifest.classes), "class", "classes")
    return (
        f"{members} on dataset `{facts.manifest.digest}` (train {counts['train']:,}, minival {counts['minival']:,}, "
        f"val {counts['val']:,} images, {classes})."
    )
