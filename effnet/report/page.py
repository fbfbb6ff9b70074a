"""The family's report: one HTML page that needs nothing else, and the same in brief as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from effnet.champion import RULE
from effnet.family import floor_story, growth_story, how_scaled, latency_story
from effnet.report.facts import Facts

VERSIONS = ("effnet", "torch", "prefect", "mlflow", "numpy", "pyarrow", "webdataset")


class Shown(NamedTuple):
    """A figure of the page."""

    file: Path  # .svg
    title: str
    caption: str
    section: str


def _is_wide(svg: str) -> bool:
    """Say whether a figure has panels side by side, and so needs a row of its own."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    return bool(box and float(box[1]) > 1.8 * float(box[2]))


def page(facts: Facts, figures: Sequence[Shown]) -> str:
    """Return the report as HTML, figures inside."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("effnet.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    drawn: dict[str, list[dict[str, Any]]] = {}
    for number, figure in enumerate(figures):
        svg = inline_svg(figure.file.read_text(encoding="utf-8"), f"f{number}", figure.title)
        shown = {"svg": svg, "title": figure.title, "caption": figure.caption, "wide": _is_wide(svg)}
        drawn.setdefault(figure.section, []).append(shown)
    return environment.get_template("family.html").render(
        facts=facts,
        rows=member_rows(facts),
        figures=drawn,
        config=config_yaml(facts),
        versions={name: version(name) for name in VERSIONS},
        rule=RULE,
        story=coefficients_story(facts),
        latency=latency_story(facts.family.members),
        floor=floor_story(facts.family.members),
        grown=growth_story(facts.family.members),
        scaled=how_scaled(facts.family),
        total_hours=sum(cost.hours for cost in facts.costs),
    )


def markdown(facts: Facts) -> str:
    """Return the report in brief."""
    lines = [f"# {facts.family.family}", "", *_answer(facts), _summary(facts), ""]
    heads = ("φ", "pixels", "top-1", "top-5", "params", "ratio", "MACs", "ratio", "latency, 1 thread")
    lines += [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for row in member_rows(facts):
        lines.append(
            f"| {row['name']} | {row['phi']:g} | {row['resolution']} | {row['top1']:.2%} | {row['top5']:.2%} | "
            f"{row['params']:,} | {row['params_ratio']:.2f} | {row['macs']:,} | {row['macs_ratio']:.2f} | "
            f"{row['latency_ms']:.2f} ms |"
        )
    members = facts.family.members
    lines += ["", latency_story(members), floor_story(members), growth_story(members)]
    lines += ["", "| stage | trainings | of an earlier build | hours |", "|---|---:|---:|---:|"]
    lines += [f"| {cost.stage} | {cost.trainings} | {cost.reused} | {cost.hours:.3f} |" for cost in facts.costs]
    if facts.family.coefficients:
        alpha, beta, gamma = facts.family.coefficients.values()
        lines += ["", f"α {alpha:g}, β {beta:g}, γ {gamma:g}: {coefficients_story(facts)}", ""]
    return "\n".join(lines)


def member_rows(facts: Facts) -> list[dict[str, Any]]:
    """Return the members with the columns of the paper's table 2."""
    first = facts.family.members[0]
    return [
        member.model_dump() | {"params_ratio": member.params / first.params, "macs_ratio": member.macs / first.macs}
        for member in facts.family.members
    ]


def coefficients_story(facts: Facts) -> str:
    """Say where α, β, γ come from."""
    fit = facts.fit
    if facts.config.coefficients or fit is None:
        return "stated in the config."
    told = f"the grid of {fit.points:,} points trained {len(fit.candidates)} networks"
    return f"{told}; {fit.told}. Chosen: {fit.rule}."


def config_yaml(facts: Facts) -> str:
    """Return the config, whole, as YAML."""
    data = facts.config.model_dump(mode="json", exclude={"store"})
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


def inline_svg(text: str, prefix: str, title: str) -> str:
    """Return an SVG file as an element of a page: no prologue, ids of its own, described in words."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'(xlink:)?href="#', f'href="#{prefix}-', text)
    text = re.sub(r'width="([\d.]+)pt"', _natural_width, text, count=1)
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _natural_width(match: re.Match[str]) -> str:
    return f'style="max-width: {round(float(match[1]) * 4 / 3)}px"'  # a point is 4/3 of a pixel


def _answer(facts: Facts) -> list[str]:
    """Return what the family says in the end, as paragraphs."""
    answer, growth = facts.family.answer, facts.family.growth
    told = [f"**Use {answer.member}**: {answer.because}."] if answer else []
    told += [f"{growth.told}."] if growth else []
    return [line for paragraph in told for line in (paragraph, "")]


def _summary(facts: Facts) -> str:
    best, counts = facts.best, facts.manifest.samples
    return (
        f"{len(facts.members)} members on dataset `{facts.manifest.digest}` (train {counts['train']:,}, minival "
        f"{counts['minival']:,}, val {counts['val']:,} images, {len(facts.manifest.classes):,} classes). Best: "
        f"**{best.result.name}** with top-1 **{best.result.top1:.2%}** on val."
    )
