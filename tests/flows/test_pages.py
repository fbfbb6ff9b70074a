"""What people look at, in a real browser: the report, MLflow's pages and Prefect's, of a family with every stage."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import html5lib
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from effnet.change import Change, settle_config
from effnet.finished import NAME
from tasks.records.pages import family_link
from tasks.records.tracking import rounded
from tasks.records.views import family_page
from tasks.servers.local import login, login_page
from tests.tiny import clean_environment, run_effnet

WAIT = 60_000  # milliseconds: these machines are slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Where several tests open MLflow's pages: their scripts, which are megabytes, are read once."""
    context = browser.new_context(viewport={"width": 1440, "height": 1800})
    yield context
    context.close()


@pytest.fixture(scope="module")
def report(home: Path) -> Path:
    (path,) = (home / "store/families").glob("*/report.html")
    return path


def home_key(home: Path) -> str:
    """Return the key of the family's build."""
    (path,) = (home / "store/families").glob("*/report.html")
    return path.parent.name


class Watched:
    """A page, what its console said, and which hosts it asked."""

    def __init__(self, browser: Browser, width: int) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))


def test_report_is_valid_html_by_itself(report: Path) -> None:
    html5lib.HTMLParser(strict=True).parse(report.read_text())


@pytest.mark.parametrize("width", [400, 1600])
def test_report_needs_nothing_else_and_fits(browser: Browser, report: Path, width: int) -> None:
    watched = Watched(browser, width)
    watched.page.goto(report.as_uri())
    assert watched.said == []
    assert [url for url in watched.asked if not url.startswith(("file:", "data:"))] == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    for heading in (
        "Use it", "Members", "What scaling pays here", "Ways of scaling", "Data", "Baseline", "Coefficients",
        "Surest mistakes", "Where the networks look", "Cost", "Reproduce it",
    ):  # fmt: skip
        expect(watched.page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    assert watched.page.locator("figure svg").count() >= 9
    watched.page.close()


def test_report_is_bounded_in_size(report: Path) -> None:
    assert 50_000 < report.stat().st_size < 1_000_000


@pytest.mark.parametrize("width", [400, 1400])
def test_the_first_screen_is_the_answer(browser: Browser, report: Path, home: Path, width: int) -> None:
    answer = json.loads((home / "family.json").read_text())["answer"]
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(report.as_uri())
    first = [page.get_by_text(f"Use {answer['member']}", exact=True), page.get_by_text(answer["because"])]
    for place in (*first, page.locator(".top svg")) if width > 1000 else first:
        box = place.first.bounding_box()
        assert box
        assert box["y"] + box["height"] <= 900
    page.close()


def test_on_a_telephone_every_number_can_be_read(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(report.as_uri())
    table = page.locator("#members ~ .scroll").first
    for column in ("top-1", "MACs"):  # beside each other, without scrolling
        box = table.get_by_role("columnheader", name=column, exact=True).bounding_box()
        assert box
        assert box["x"] + box["width"] <= 400, column
    table.evaluate("region => { region.scrollLeft = region.scrollWidth }")
    name = table.get_by_role("rowheader", name="B1", exact=True).bounding_box()
    last = table.get_by_role("columnheader", name="training", exact=True).bounding_box()
    assert name
    assert last
    assert 0 <= name["x"] < 40  # the first column stays
    assert last["x"] + last["width"] <= 400
    letters = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].map(text => text.getBoundingClientRect())"
        ".map(box => Math.max(box.width, box.height))"  # some stand upright
    )
    assert len(letters) > 100
    assert min(letters) >= 7  # pixels
    page.close()


def test_on_paper_nothing_is_cut_off(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 700, "height": 1000}, color_scheme="dark")  # of A4, less its margins
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    wide = page.evaluate(
        "[...document.querySelectorAll('main table, figure svg, pre')].map(each => each.getBoundingClientRect())"
        ".filter(box => box.right > innerWidth).length"
    )
    assert wide == 0
    expect(page.get_by_role("button", name="Copy").first).to_be_hidden()
    page.close()


def test_all_members_maps_are_side_by_side(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(report.as_uri())
    strips = page.locator("#maps ~ .strip")
    assert strips.count() == 3
    shown = strips.first.locator("img").evaluate_all("images => images.map(image => [image.alt, image.naturalWidth])")
    assert [width for _, width in shown] == [96] * 3
    assert [re.match(r"the image|B0 finds|B1 finds", label) is not None for label, _ in shown] == [True] * 3
    assert page.locator("table.samples img").count() == 10 * 8
    page.close()


def test_code_is_copied_and_does_what_it_says(browser: Browser, report: Path, home: Path) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(report.as_uri())
    copied = []
    for button in page.locator("button[data-copies]").all():
        button.click()
        expect(button).to_have_text("Copied")
        copied.append(page.evaluate("navigator.clipboard.readText()"))
    context.close()
    command, python, server = copied
    image = home / "a digit.png"
    Image.new("L", (8, 8), 128).save(image)
    (home / "use.py").write_text(
        python.replace("image.jpg", str(image)).replace("predictor.predict(", "print(*predictor.predict(") + ")\n"
    )
    shown = subprocess.run(
        [sys.executable, "use.py"], cwd=home, env=clean_environment(), capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    words = shlex.split(command.replace("IMAGES", shlex.quote(str(image))))
    assert words[0] == "effnet"
    done = run_effnet(*words[1:], "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(shown.stdout)["label"] in done.stdout
    assert "mlflow models serve --model-uri models:/tiny-b" in server


@pytest.mark.slow
def test_dates_and_links_do_not_draw_it_again(report: Path, home: Path) -> None:
    drawn = {
        path: path.stat().st_mtime_ns for path in report.parent.iterdir() if path.suffix in {".png", ".svg", ".html"}
    }
    assert len(drawn) > 15
    (report.parent / NAME).unlink(missing_ok=True)  # so that the build is looked at in full
    done = run_effnet("family", "tiny.yaml", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    figures = {path: path.stat().st_mtime_ns for path in drawn}
    latency = {path for path in drawn if path.stem in {"latency", "report"}}  # it may be measured again
    assert {path for path in drawn if drawn[path] != figures[path]} <= latency


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_report_is_accessible(browser: Browser, report: Path, width: int, colours: Literal["light", "dark"]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
    page.goto(report.as_uri())
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if colours == "light" else "rgb(18, 22, 29)")
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found] == []
    page.close()


def test_in_mlflows_frame_jumps_work_and_links_show_their_address(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_content('<iframe sandbox="allow-scripts" style="width: 900px; height: 600px"></iframe>')
    page.eval_on_selector("iframe", "(frame, text) => { frame.srcdoc = text; }", report.read_text())
    frame = page.frames[1]
    jump = frame.locator('nav a[href^="#"]').last
    place = (jump.get_attribute("href") or "")[1:]
    jump.click()
    seen = (
        "id => { const top = document.getElementById(id).getBoundingClientRect().top; return top > -5 && top < 600; }"
    )
    frame.wait_for_function(seen, arg=place, timeout=WAIT)
    address = "http://127.0.0.1:5000/#/models"  # a build without servers has no such link of its own
    frame.evaluate(
        "to => document.querySelector('h1').insertAdjacentHTML('afterend', `<a href='${to}'>away</a>`)", address
    )
    frame.locator("a", has_text="away").click()
    assert frame.locator("code.address").first.inner_text() == address
    assert frame.locator("h1").first.is_visible()  # the report is still there
    page.close()


def test_report_answers_to_mouse_and_keyboard(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    point = page.locator('svg g[id*="-point-B1"]').first
    point.hover()
    expect(page.locator("#tip")).to_contain_text("B1: top-1")
    expect(page.locator('tr[data-member="B1"]')).to_have_class(re.compile(r"\blit\b"))
    page.mouse.move(0, 0)
    expect(page.locator("#tip")).to_be_hidden()
    point.focus()
    expect(page.locator("#tip")).to_contain_text("MACs")
    page.close()


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[dict[str, str]]:
    """Run `effnet up` over the family's store; return the addresses."""
    command = [sys.executable, "-m", "flows.cli"]
    done = subprocess.run(
        [*command, "up", "--store", "store", "--json"],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    subprocess.run([*command, "down", "--store", "store"], cwd=home, env=clean_environment(), check=True)


def best_member(home: Path) -> str:
    """Return the best member's accuracy as MLflow shows it."""
    (path,) = (home / "store/families").glob("*/family.json")
    return str(rounded("val_top1", max(member["top1"] for member in json.loads(path.read_text())["members"])))


def test_the_printed_link_shows_the_members_and_leads_to_their_models(
    browser: Browser, servers: dict[str, str], home: Path
) -> None:
    up = run_effnet("up", "--store", "store", cwd=home)  # they run already: it says where
    link = up.stdout.partition("members of tiny: ")[2].split()[0]
    assert link == family_link(home / "store", "tiny")  # which the end of a build prints
    assert link.startswith(servers["mlflow"])
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    for address in (link, servers["mlflow"]):  # the bare address leads there too
        page.goto("about:blank")
        page.goto(address)
        expect(page.get_by_text(best_member(home), exact=True).first).to_be_in_viewport(timeout=WAIT)
    names = page.get_by_role("link", name=re.compile(r"^B\d$"))
    assert names.all_text_contents() == ["B0", "B1"]  # flat, in the order of phi
    for column in ("val_top1", "phi", "params", "macs", "latency_ms", "train_hours", "seed", "Models"):
        expect(page.get_by_text(column, exact=True).first).to_be_in_viewport()
    expect(page.get_by_text("tiny: 2 members; use").first).to_be_in_viewport()  # the note's first line
    expect(page.get_by_text("Model training", exact=True).first).to_be_in_viewport()
    panel = page.locator("span:not(.assistant-fab-label)", has_text="MLflow Assistant")  # and not its button
    for nuisance in (panel, page.get_by_text("Information about UI telemetry")):
        expect(nuisance).to_have_count(0)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="tiny-b1").first.click()
    expect(opened.value.get_by_text("latency_ms", exact=True).first).to_be_visible(timeout=WAIT)
    opened.value.close()
    page.close()


@pytest.mark.parametrize(
    ("view", "drawn", "points"),
    [
        ("members", "macs vs. val_top1", 2 * 2 + 2 * 2 * 3),  # two charts of two members, and two of three epochs each
        ("accuracy-cost", "train_hours vs. val_top1", 4 * 2),
        ("curves", "minival_loss", 4 * 2 * 3),
        ("grid", "Parallel Coordinates", 10),
        ("search", "Parallel Coordinates", 4),
        ("study", "latency_ms vs. top1", 2 * 6),
    ],
)
def test_saved_views_hold_points(
    context: BrowserContext, servers: dict[str, str], view: str, drawn: str, points: int
) -> None:
    page = context.new_page()
    page.goto(family_page(servers["mlflow"], "1", view, charts=True))
    expect(page.get_by_text(drawn, exact=True).first).to_be_visible(timeout=WAIT)
    drawn_now = "least => document.querySelectorAll('.points path').length >= least"
    page.wait_for_function(drawn_now, arg=points, timeout=WAIT)
    page.close()


def test_mlflow_shows_the_family(context: BrowserContext, servers: dict[str, str], home: Path) -> None:
    with sqlite3.connect(home / "store/mlflow.db") as database:
        ((experiment,),) = database.execute("select experiment_id from experiments where name = 'tiny'")
        ((parent,),) = database.execute(
            "select r.run_uuid from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'effnet.kind' and t.value = 'family'"
        )
        members = [run for (run,) in database.execute("select run_uuid from runs where name in ('B0', 'B1')")]
    page = context.new_page()
    page.goto(f"{servers['mlflow']}/#/experiments/{experiment}/runs/{parent}")
    expect(page.get_by_text("2 members on dataset").first).to_be_visible(timeout=WAIT)  # the note
    page.goto(f"{servers['mlflow']}/#/experiments/{experiment}/runs/{parent}/artifacts/report.html")
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_role("heading", name="Ways of scaling")).to_be_visible(timeout=WAIT)
    runs = json.dumps(members)
    page.goto(f"{servers['mlflow']}/#/compare-runs?runs={runs}&experiments=[%22{experiment}%22]")
    expect(page.get_by_text("Parallel Coordinates").first).to_be_visible(timeout=WAIT)
    page.goto(f"{servers['mlflow']}/#/models/tiny-b1")
    expect(page.get_by_text("champion").first).to_be_visible(timeout=WAIT)
    page.close()


def prefect_page(browser: Browser, home: Path) -> Page:
    """Open a page that has logged in as `effnet up` says."""
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.goto(login_page(home / "store").as_uri())
    page.wait_for_url(re.compile(r"://[^/]*/(v2/)?dashboard"), timeout=WAIT)  # not the login's, which would lead there
    expect(page.get_by_text("Flow Runs").first).to_be_visible(timeout=WAIT)  # who goes on sooner may lose the login
    return page


def test_prefect_asks_for_the_login(browser: Browser, servers: dict[str, str]) -> None:
    page = browser.new_page()
    page.goto(f"{servers['prefect']}/runs")
    page.wait_for_url("**/login?redirect=/runs", timeout=WAIT)
    page.close()


def test_prefect_shows_the_run_and_its_artifacts(browser: Browser, servers: dict[str, str], home: Path) -> None:
    with sqlite3.connect(home / "store/prefect/prefect.db") as database:
        (run,), *_ = database.execute(
            "select r.id from flow_run r join flow f on f.id = r.flow_id "
            "where f.name = 'build_family' and r.state_type = 'COMPLETED' order by r.start_time"
        )
        artifacts = dict(database.execute("select key, id from artifact order by created"))
    assert {"tiny-report", "tiny-members", "tiny-page"} <= artifacts.keys()
    assert any(key.startswith("tiny-train-members") for key in artifacts)
    assert "tiny-whole-family" in artifacts
    page = prefect_page(browser, home)
    up = run_effnet("up", "--store", "store", cwd=home)
    newest = up.stdout.partition("newest flow run, ")[2].split("\n")[0].partition(": ")[2]
    page.goto(newest)  # Prefect's own first page shows numbers of a day, and no run
    expect(page.get_by_text("Completed").first).to_be_visible(timeout=WAIT)
    page.goto(f"{servers['prefect']}/runs/flow-run/{run}")
    expect(page.get_by_text("search by evolution").first).to_be_visible(timeout=WAIT)  # its log
    page.get_by_text("Task Runs", exact=True).first.click()
    for work in ("write report", "register members", "evaluate B1", "train B0"):  # the newest are listed first
        expect(page.get_by_text(work, exact=True).first).to_be_visible(timeout=WAIT)
    page.goto(f"{servers['prefect']}/artifacts/artifact/{artifacts['tiny-report']}")
    expect(page.get_by_text("of one CPU core in all").first).to_be_visible(timeout=WAIT)
    page.close()


def test_prefects_form_begins_with_what_people_change_and_submits_it(
    browser: Browser, servers: dict[str, str], home: Path
) -> None:
    make = (
        "from flows.build_family import build_family; "
        "print(build_family.to_deployment('form', parameters={'config': 'photos'}).apply())"
    )
    done = subprocess.run(
        [sys.executable, "-c", make],
        cwd=home,
        env=clean_environment()
        | {"PREFECT_API_URL": f"{servers['prefect']}/api", "PREFECT_API_AUTH_STRING": login(home / "store")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    deployment = done.stdout.split()[-1]
    page = prefect_page(browser, home)
    page.goto(f"{servers['prefect']}/deployments/deployment/{deployment}/run")
    for words in ("Name of the family", "Images", "Members by φ", "Members by network", "Recipe", "Compute", "photos"):
        expect(page.get_by_text(words).first).to_be_visible(timeout=WAIT)
    field = page.get_by_text("share held out of training to decide by")
    expect(field).to_have_count(0)  # folded away
    page.get_by_text("Field by field").click()
    expect(field.first).to_be_visible(timeout=WAIT)
    page.get_by_text("By name").click()
    page.locator("textarea").nth(1).fill("/data/flowers")  # of which the first is the name
    recipe = page.get_by_role("button", name="as in the config").first
    recipe.focus()
    recipe.press("ArrowDown")
    page.get_by_role("option", name="modern").click()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda address: not address.endswith("/run"), timeout=WAIT)
    with sqlite3.connect(home / "store/prefect/prefect.db") as database:
        ((text,),) = database.execute("select parameters from flow_run where deployment_id = ?", (deployment,))
    given = json.loads(text)
    assert given["config"] == "photos"
    assert (given["change"]["images"], given["change"]["recipe"]) == ("/data/flowers", "modern")
    settled, _ = settle_config(given["config"], Change.model_validate_json(json.dumps(given["change"])), Path())
    assert settled.data.source.model_dump()["train"] == "/data/flowers"
    page.close()
