"""The note of a family's experiment in MLflow: what came out, in a few lines, and where to look."""

from __future__ import annotations

from effnet.champion import standing_story
from effnet.history import told
from effnet.report.costs import told_total
from effnet.report.facts import Facts
from effnet.stages import Stage
from tasks.records.views import family_page, models_page, run_page, views_of

SHOWN = 8  # changed fields that the note names


def experiment_note(facts: Facts, experiment: str, run_id: str) -> str:
    """Return the note as Markdown. MLflow's page shows its first line, until the note is opened.

    Args:
        facts: the build.
        experiment: MLflow's id of the experiment.
        run_id: of the family's run, which holds the report.
    """
    family, use = facts.family, facts.chosen.result
    many = "s" if len(family.members) > 1 else ""
    lines = [f"{family.family}: {len(family.members)} member{many}; use {use.name}, {use.top1:.2%} on val"]
    if family.answer:
        lines += ["", f"Use {family.answer.member}: {family.answer.because}."]
    if family.growth:
        lines += ["", f"{family.growth.told}."]
    if told_of := standing_story(family.standings, use.name):
        lines += ["", told_of]
    if changes := family.changes:
        lines += ["", f"Since {changes.when}:", "", *(f"* {what}: {words}" for what, words in told(changes, SHOWN))]
    lines += ["", f"Cost: {told_total(facts.costs)}."]
    lines += ["", "| member | top-1 | multiply-adds | latency |", "|---|---:|---:|---:|"]
    lines += [
        f"| {each.name} | {each.top1:.2%} | {each.macs:,} | {each.latency_ms:.2f} ms |" for each in family.members
    ]
    stages: dict[Stage, object] = {
        Stage.MEMBER: True,
        Stage.FIT: facts.fit,
        Stage.FORECAST: facts.forecast,
        Stage.SEARCH: facts.search,
        Stage.STUDY: facts.study,
    }
    links = {
        view.name: family_page("", experiment, view.id, charts=bool(place))
        for stage, done in stages.items()
        if done
        for place, view in enumerate(views_of(stage), start=stage is not Stage.MEMBER)
    }
    links |= {"models": models_page("", experiment), "report": run_page("", experiment, run_id, "report.html")}
    shown = " · ".join(f"[{name}]({link.removeprefix('/')})" for name, link in links.items())
    return "\n".join([*lines, "", shown, ""])
