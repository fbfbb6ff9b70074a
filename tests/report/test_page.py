"""The report page: what it says first, and what it does not say."""

from __future__ import annotations

import html
import re
from pathlib import Path

import html5lib
import pytest

from effnet.arch.spec import Architecture
from effnet.champion import RULE, Standing
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.family import OutOfFold
from effnet.history import Changes, Effect, FieldChange, StageTrainings
from effnet.hits import keep_hits
from effnet.report.data import ClassRow, Contents
from effnet.report.facts import Facts
from effnet.report.members import member_rows
from effnet.report.page import Shown, markdown
from effnet.report.quality import classes_figure
from effnet.report.use import Links
from effnet.runs import RunFolder
from effnet.statistics import wilson_interval
from effnet.store import Store
from tasks.records.story import experiment_note
from tests.report.made import hits, made_facts, made_page

Made = tuple[Store, Manifest, FamilyConfig, Architecture]


@pytest.fixture
def made(store: Store, manifest: Manifest, config: FamilyConfig, baseline: Architecture) -> Made:
    return store, manifest, config, baseline


def words(page: str) -> str:
    """Return a page's text without its style, script and tags."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def tie(made: Made) -> Facts:
    """Return a family whose larger member has the better top-1, within noise."""
    return made_facts(*made, {"B0": [hits(285)], "B1": [hits(288)]})


def test_it_leads_with_the_answer_not_with_the_best_score(made: Made) -> None:
    facts = tie(made)
    assert facts.family.answer is not None
    assert facts.family.answer.member == "B0"
    page = made_page(facts)
    html5lib.HTMLParser(strict=True).parse(page)
    text = words(page)
    assert "<title>made: use B0</title>" in page
    assert text.index("Use B0 Because 300 images cannot tell it from B1") < text.index("Members")
    low, high = (f"{100 * end:.1f}" for end in wilson_interval(285 / 300, 300))
    assert f"top-1 on val 95.0 % {low} to {high} %" in text
    assert '<tr data-member="B0" class="chosen"' in page
    assert "best top-1 on val" not in text
    brief = markdown(facts)
    assert brief.splitlines()[2].startswith("**Use B0**")
    assert "**B1**" not in brief


def test_differences_within_noise_are_ties_and_others_are_not(made: Made) -> None:
    rows = member_rows(made_facts(*made, {"B0": [hits(200)], "B1": [hits(288)], "B2": [hits(290)]}))
    assert [row.verdict for row in rows] == ["worse", "a tie", "the one to use"]
    assert rows[0].against is not None
    assert rows[0].against.lead == pytest.approx(-0.3)
    assert rows[2].against is None
    assert rows[1].band.low < 288 / 300 < rows[1].band.high


def test_seeds_widen_the_bands_of_all_members(made: Made) -> None:
    seeds = member_rows(made_facts(*made, {"B0": [hits(270), hits(290)], "B1": [hits(280), hits(282)]}))
    alone = member_rows(made_facts(*made, {"B0": [hits(280)], "B1": [hits(281)]}))
    for row, single in zip(seeds, alone, strict=True):
        assert row.band.high - row.band.low > single.band.high - single.band.low


def test_of_several_trainings_it_says_which_one_is_shown(made: Made) -> None:
    store, manifest, config, baseline = made
    seeds = config.model_copy(update={"members": config.members.model_copy(update={"seeds": 2})})
    page = words(made_page(made_facts(store, manifest, seeds, baseline, {"B0": [hits(280), hits(281)]})))
    assert "B0 seed 0, the one of its 2 trainings whose model is registered" in page
    assert "B0 seed" not in words(made_page(made_facts(*made, {"B0": [hits(280)]})))


def test_it_tells_how_the_models_stand_in_the_registry(made: Made) -> None:
    facts = tie(made)
    assert "In the registry" not in made_page(facts)
    standings = tuple(
        Standing(member=name, model=f"made-{name.lower()}", version=version, champion="1", reason=f"for <{name}>")
        for name, version in (("B0", "1"), ("B1", "2"))
    )
    facts = facts._replace(family=facts.family.model_copy(update={"standings": standings}))
    page = made_page(facts)
    html5lib.HTMLParser(strict=True).parse(page)
    text = words(page)
    assert "made-b0 version 1 is champion: for &lt;B0&gt;" in text
    assert "B0 1 this one for &lt;B0&gt; B1 2 version 1 for &lt;B1&gt;" in text
    assert f"The gate: {html.escape(RULE)}." in text.replace("&#39;", "&#x27;")
    assert "made-b0 version 1 is champion: for <B0>" in experiment_note(facts, "1", "run")


def test_top_5_of_few_classes_says_nothing(made: Made) -> None:
    facts = tie(made)
    few = facts.manifest.model_copy(update={"classes": tuple("ab"), "class_names": ("cat", "dog") * 5})
    assert "top-5" in made_page(facts)
    assert "top-5" in markdown(facts)
    two = facts._replace(manifest=few)
    assert "top-5" not in made_page(two)
    assert "top-5" not in markdown(two)
    assert "of 2 classes" in words(made_page(two))


def test_one_model_is_not_called_models(made: Made) -> None:
    text = words(made_page(made_facts(*made, {"B0": [hits(285)]})))
    assert "a family of 1 model on" in text
    assert "1 models" not in text
    assert "lead" not in text.partition("Members")[2].partition("What scaling")[0]
    assert "1 member on dataset" in markdown(made_facts(*made, {"B0": [hits(285)]}))


def test_the_recipe_is_the_one_that_was_carried_out(made: Made) -> None:
    store, manifest, config, baseline = made
    longer = config.model_copy(
        update={"recipe": config.recipe.model_copy(update={"warmup_epochs": 5.0, "ema_decay": 0.9999})}
    )
    page = made_page(made_facts(store, manifest, longer, baseline, {"B0": [hits(285)]}))
    text = words(page)
    assert "warm-up 0.3 epochs" in text  # a tenth of three epochs
    assert "averaged weights (EMA) decay 0.798 " in text  # 1 - 20 / (3 · 33 steps)
    assert "warmup_epochs: 5.0  # 0.3 was used" in page
    assert "ema_decay: 0.9999  # 0.798 was used" in page


def test_known_addresses_are_linked_and_others_are_not(made: Made) -> None:
    facts = tie(made)
    page = made_page(facts, links=Links(model="http://127.0.0.1:5000/#/models/made-b0"))
    assert '<a href="http://127.0.0.1:5000/#/models/made-b0">Model in the registry</a>' in page
    assert "Prefect</a>" not in page
    assert 'aria-label="Elsewhere"' not in made_page(facts)


def test_names_of_classes_and_notes_are_only_text(made: Made, tmp_path: Path) -> None:
    facts = tie(made)
    name, note = "<script>alert('class')</script>", "<script>alert('note')</script>"
    odd = facts.manifest.model_copy(update={"notes": (note,), "class_names": (name,) * 10})
    rows = (ClassRow(0, name, {"train": 3, "minival": 1, "val": 1}),)
    figure = tmp_path / "classes.svg"
    classes_figure((1,) * 10, (2,) * 10, odd.class_names, name, [figure])
    page = made_page(
        facts._replace(manifest=odd), [Shown(figure, "Classes", name, "closely")], found=Contents(rows, 10, (name,))
    )
    assert "<script>alert" not in page
    for told in ("class", "note"):
        assert any(f"&lt;script&gt;alert({quote}{told}{quote})" in page for quote in ("&#39;", "'"))


def test_the_code_names_the_run_and_the_store(made: Made) -> None:
    facts = tie(made)
    page, key = made_page(facts), facts.chosen.result.run_key
    assert f"effnet predict {key[:12]} IMAGES --store {facts.store.root.absolute()}" in page
    assert f"runs/{key}" in page


def test_members_on_folds_are_shown_and_compared_out_of_fold(made: Made) -> None:
    facts = made_facts(*made, {"B0": [hits(270), hits(270)], "B1": [hits(290), hits(290)]})  # B1 leads on val
    right = {"B0": (90, 80), "B1": (80, 80)}  # and B0 out of fold
    members = []
    for member in facts.family.members:
        for seed, number in zip(member.seeds, right[member.name], strict=True):
            run = RunFolder(facts.store.runs / seed.run_key)
            keep_hits(run.hits_path, facts.family.dataset, "0" * 64, "minival", hits(number, 100))
        seeds = tuple(seed.model_copy(update={"fold": fold}) for fold, seed in enumerate(member.seeds, 1))
        found = OutOfFold(top1=sum(right[member.name]) / 200, low=0.71, high=0.91, images=200)
        members.append(member.model_copy(update={"seeds": seeds, "out_of_fold": found}))
    folded = facts._replace(family=facts.family.model_copy(update={"members": tuple(members)}))
    rows = member_rows(folded)
    (lead,) = (row.against.lead for row in rows if row.against)
    assert folded.chosen.result.name == "B1"
    assert lead == pytest.approx(0.05)
    assert rows[0].band.mean == 0.9  # of val, as before
    page, brief = made_page(folded), markdown(folded)
    html5lib.HTMLParser(strict=True).parse(page)
    text = words(page)
    story = (
        "Out of fold is top-1 on the 200 images of train and minival, each judged by the one of 2 networks that did "
        "not learn from it; a member's model is that of the first fold."
    )
    assert story.replace("'", "&#39;") in text
    assert "counted on the same images, out of fold, in points" in text
    assert "model top-1 out of fold lead" in text
    low, high = (f"{100 * end:.1f}%" for end in rows[0].band[1:])
    assert re.search(r"85\.0 ?% ?71\.0 to 91\.0 \+5\.00 ± \d", text)
    assert f"| 90.00% ({low} to {high}) | 85.00% (71.0% to 91.0%) | " in brief
    assert story in brief
    assert "out of fold" not in words(made_page(facts)).lower() + markdown(facts).lower()


def test_it_tells_what_changed_since_the_build_before(made: Made) -> None:
    facts = tie(made)
    assert "What changed" not in made_page(facts)
    assert "Since" not in markdown(facts)
    effect = Effect(before="B1", now="B0", top1_before=0.95, top1_now=0.96, images=300, lead=0.01, noise=0.02)
    changes = Changes(
        before="a" * 16, at="2026-11-26T18:03:44+00:00", config=(FieldChange(name="seed", before="0", now="<1>"),),
        data=(), environment=(), coefficients=(), answer=effect,
        trainings=(StageTrainings(stage="train members", new=2, reused=1),),
        members=(effect.model_copy(update={"before": "B0"}),),
    )  # fmt: skip
    facts = facts._replace(family=facts.family.model_copy(update={"changes": changes}))
    page = made_page(facts)
    html5lib.HTMLParser(strict=True).parse(page)
    text, brief = words(page), markdown(facts)
    use = "B1 → B0: top-1 95.00% → 96.00%, +1.00 ± 2.00 points on the same 300 images, seeds not counted: a tie"
    for told in (
        "config seed 0 → &lt;1&gt;",
        "data as before",
        "trainings train members: 2 new, 1 reused",
        f"use {use}",
    ):
        assert told in text
    assert "Since the build of 2026-11-26 18:03 UTC (aaaaaaaaaaaaaaaa): B1 → B0" in text
    assert "B0 95.0 % 96.0 % +1.00 ± 2.00 a tie 300" in text
    assert "* config: seed 0 → <1>" in brief
    assert f"* use: {use}" in brief
    note = experiment_note(facts, "1", "run")
    assert f"* use: {use}" in note
