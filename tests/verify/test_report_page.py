"""The HTML page in a headless browser: it renders, sorts, filters, follows light and dark, and needs no network."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.verify.report_cases import failing_diff, jpeg, layer_names
from verify.report import write_diff_report, write_report
from verify.report.blocks import Column, Figure, KeyFigure, Note, Picture, Pictures, Report, Row, Table, Verdict
from verify.report.evaluation_figures import horizontal_bars
from verify.report.figures import Point, error_over_depth, scatter_against

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless chromium; skips with the reason where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.skip("no chromium: playwright is not installed (pip install playwright)")
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.skip(f"no chromium: none of {', '.join(CHROMIUM_NAMES)} on PATH (apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diff_report(failing_diff(), tmp_path_factory.mktemp("report"))[2]


@dataclass
class Opened:
    """A page with everything it said and asked for."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def column(self, label: str, table: str = "layers") -> list[str]:
        """The texts of a column in the order shown, hidden rows left out."""
        return self.page.evaluate(
            """([table, label]) => {
                const element = document.getElementById(`table-${table}`);
                const place = [...element.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === label);
                return [...element.tBodies[0].rows].filter((row) => row.offsetParent !== null)
                    .map((row) => row.cells[place].textContent);
            }""",
            [table, label],
        )

    def heading(self, label: str, table: str = "layers") -> Any:
        return self.page.locator(f"#table-{table} th", has=self.page.get_by_role("button", name=label, exact=True))

    def wait_until(self, condition: str, seconds: float = 10) -> None:
        """Until a JavaScript expression holds; playwright's own wait needs `eval`, which the page's policy forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"still not: {condition}"
            self.page.wait_for_timeout(50)

    def color(self, selector: str, name: str) -> str:
        return self.page.evaluate(
            "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]", [selector, name]
        )


def open_page(browser: Any, file: Path) -> Opened:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = Opened(context.new_page())
    opened.page.on("console", lambda message: opened.messages.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.messages.append(f"error: {error}"))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.goto(file.as_uri())
    opened.page.wait_for_selector(".plot[data-ready=yes] .main-svg")
    return opened


@pytest.fixture(scope="module")
def diff_page(browser: Any, page_file: Path) -> Iterator[Opened]:
    opened = open_page(browser, page_file)
    yield opened
    opened.page.context.close()


@pytest.fixture
def opened(diff_page: Opened, page_file: Path) -> Iterator[Opened]:
    """The page of a failing diff, as it is at first; whatever it says or asks for fails the test."""
    page = diff_page.page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
    page.get_by_role("searchbox", name="Filter layers").fill("")
    page.get_by_label("only failing").uncheck()
    while diff_page.heading("#").get_attribute("aria-sort") != "ascending":
        diff_page.heading("#").locator("button").click()
    page.evaluate("document.querySelectorAll('tr.shown').forEach((row) => row.classList.remove('shown'))")
    page.evaluate("scrollTo(0, 0)")
    yield diff_page
    assert diff_page.messages == []
    asked = [url for url in diff_page.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [page_file.as_uri()]


def test_it_renders_with_the_verdict_on_top_and_every_point_drawn(opened: Opened):
    verdict = opened.page.locator(".verdict")
    assert verdict.bounding_box()["y"] < 200
    assert "failed" in verdict.text_content() and "first at fpn.cell.1.fnode.2" in verdict.text_content()
    assert "Two BiFPN edge weights" in opened.page.locator(".note.warning").text_content()
    assert opened.page.locator(".plot .scatterlayer .points path").count() == len(layer_names())
    assert opened.page.locator(".plot .legend .traces").all_text_contents() == [
        "backbone", "fpn", "class_net", "box_net", "tolerance",
    ]
    assert opened.page.evaluate("document.querySelector('.plot')._fullLayout.yaxis.type") == "log"
    assert "weights sha256" in opened.page.locator("main").text_content()


def test_headings_sort_both_ways_by_value_and_tell(opened: Opened):
    opened.heading("Max rel").locator("button").click()
    assert opened.heading("Max rel").get_attribute("aria-sort") == "descending"
    shown = [math.inf if text == "∞" else float(text) for text in opened.column("Max rel")]
    assert shown == sorted(shown, reverse=True) and shown[0] == math.inf and shown[-1] == 0
    assert opened.column("Layer")[0] == "class_net.predict.level.3"

    opened.heading("Max rel").locator("button").click()
    assert opened.heading("Max rel").get_attribute("aria-sort") == "ascending"
    assert opened.column("Layer")[0] == "backbone.stem"

    opened.heading("Layer").locator("button").click()
    assert opened.heading("Max rel").get_attribute("aria-sort") == "none"
    assert opened.heading("Layer").get_attribute("aria-sort") == "ascending"
    assert opened.column("Layer")[0].startswith("backbone.blocks.0.0")
    opened.heading("Shape").locator("button").click()
    sizes = [math.prod(map(int, text.split("×"))) for text in opened.column("Shape")]
    assert sizes == sorted(sizes, reverse=True)
    opened.heading("#").locator("button").click()
    assert opened.column("Layer") == layer_names()[::-1]
    opened.heading("#").locator("button").click()
    assert opened.column("Layer") == layer_names()


def test_filters_show_what_they_say(opened: Opened):
    page = opened.page
    page.get_by_role("searchbox", name="Filter layers").fill("CLASS_NET level.3")
    expected = [name for name in layer_names() if "class_net" in name and "level.3" in name]
    assert opened.column("Layer") == expected
    assert page.locator(".count").text_content() == f"{len(expected)} of {len(layer_names())}"

    page.get_by_role("searchbox", name="Filter layers").fill("no such layer")
    assert opened.column("Layer") == [] and page.get_by_text("No row matches.").is_visible()

    page.get_by_role("searchbox", name="Filter layers").fill("")
    page.get_by_label("only failing").check()
    assert set(opened.column("Result")) == {"beyond"} and len(opened.column("Layer")) == 54
    opened.heading("Max abs").locator("button").click()
    assert len(opened.column("Layer")) == 54, "sorting keeps the filter"
    page.get_by_label("only failing").uncheck()
    assert len(opened.column("Layer")) == len(layer_names())


def test_the_keyboard_reaches_filter_sorting_and_plot(opened: Opened):
    page = opened.page
    page.get_by_role("searchbox", name="Filter layers").focus()
    page.keyboard.type("fpn.input")
    assert len(opened.column("Layer")) == 5
    page.keyboard.press("Enter")
    assert page.url.endswith("diff.html"), "Enter in the filter does not leave the page"
    opened.heading("Max rel").locator("button").focus()
    page.keyboard.press("Enter")
    assert opened.heading("Max rel").get_attribute("aria-sort") == "descending"

    page.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".spoken").text_content().startswith("backbone.blocks.0.0; max rel ")
    assert page.locator(".plot .hovertext").count() == 1
    page.keyboard.press("Enter")
    assert len(opened.column("Layer")) == len(layer_names()), "the filter does not hide the row asked for"
    assert page.locator("tr.shown td.name").text_content() == "backbone.blocks.0.0"


def test_hovering_names_the_layer_and_a_click_shows_its_row(opened: Opened):
    page = opened.page
    page.locator(".plot").first.scroll_into_view_if_needed()
    place = layer_names().index("fpn.cell.1.fnode.2")
    x, y = page.evaluate(
        """(place) => {
            const plot = document.querySelector('.plot'), {xaxis, yaxis} = plot._fullLayout;
            const trace = plot.data.find((one) => one.x.includes(place) && one.customdata);
            const box = plot.getBoundingClientRect();
            return [box.x + xaxis._offset + xaxis.l2p(place),
                    box.y + yaxis._offset + yaxis.d2p(trace.y[trace.x.indexOf(place)])];
        }""",
        place,
    )
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.wait_for_selector(".plot .hovertext")
    hover = page.locator(".plot .hovertext").text_content()
    assert "fpn.cell.1.fnode.2" in hover and "max rel 2.00e-03" in hover and "beyond tolerance 1e-09" in hover
    page.mouse.click(x, y)
    page.wait_for_selector("tr.shown")
    assert page.locator("tr.shown td.name").text_content() == "fpn.cell.1.fnode.2"
    assert page.locator("tr.shown").bounding_box()["y"] < 900


def test_no_page_wide_scrolling_at_any_width(opened: Opened):
    page = opened.page
    page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    for width in (1920, 768, 375, 320):
        page.set_viewport_size({"width": width, "height": 800})
        opened.wait_until("document.querySelector('.plot .main-svg').getBoundingClientRect().right <= innerWidth")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        scroll, client, overflow = page.evaluate(
            """() => {
                const frame = document.getElementById('table-layers').parentElement;
                return [frame.scrollWidth, frame.clientWidth, getComputedStyle(frame).overflowX];
            }"""
        )
        assert client <= width and scroll > client and overflow == "auto"


def luminance(color: str) -> float:
    """WCAG relative luminance of "rgb(r, g, b)" or "#rrggbb"."""
    if color.startswith("#"):
        channels = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    else:
        channels = [int(value) for value in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_light_and_dark_reach_page_and_plot_and_can_be_read(opened: Opened):
    seen = {}
    for scheme in ("light", "dark"):
        opened.page.emulate_media(color_scheme=scheme)
        name = "getComputedStyle(document.documentElement).getPropertyValue('--surface').trim()"
        opened.wait_until(f"document.querySelector('.plot').layout.paper_bgcolor === {name}")
        colors = opened.page.evaluate(
            "(() => { const p = document.querySelector('.plot'); return [p.layout.paper_bgcolor, p.layout.font.color,"
            " ...p.data.map((trace) => trace.line.color)]; })()"
        )
        assert all(color.startswith("#") for color in colors), colors
        background, *inks = colors
        assert min(contrast(ink, background) for ink in inks) >= 3
        assert contrast(opened.color("body", "color"), opened.color("body", "backgroundColor")) >= 7
        for part in (".subtitle", "td.outcome", "tr.failing td.outcome", ".verdict strong", ".note .lead"):
            behind = {".verdict strong": ".verdict", ".note .lead": ".note", ".subtitle": "body"}
            surface = opened.color(behind.get(part, part), "backgroundColor")
            if surface == "rgba(0, 0, 0, 0)":
                surface = opened.color(".scroll", "backgroundColor")
            assert contrast(opened.color(part, "color"), surface) >= 4.5, (scheme, part)
        seen[scheme] = (background, opened.color("body", "backgroundColor"))
    assert luminance(seen["light"][0]) > 0.8 > 0.1 > luminance(seen["dark"][0])
    assert luminance(seen["light"][1]) > 0.8 > 0.1 > luminance(seen["dark"][1])


def test_the_policy_stops_network_and_foreign_scripts(browser: Any, page_file: Path):
    page = browser.new_page()
    asked: list[str] = []
    page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_())[1])
    page.goto(page_file.as_uri())
    stopped = page.evaluate(
        """async () => {
            const stopped = [];
            addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
            await fetch("https://example.com/").catch(() => 0);
            new Image().src = "https://example.com/a.png";
            const script = document.createElement("script");
            script.textContent = "window.foreign = true";
            document.body.append(script);
            await new Promise((done) => setTimeout(done, 200));
            return [stopped.sort(), window.foreign ?? false];
        }"""
    )
    assert stopped == [["connect-src", "img-src", "script-src-elem"], False]
    assert [url for url in asked if url.startswith("http")] == []
    page.close()


def test_the_same_blocks_make_a_page_of_another_check(browser: Any, tmp_path: Path):
    pixels = np.full((30, 40, 3), 128, np.uint8)
    columns = (Column("Image", "name", essential=True), Column("Boxes apart", "number", essential=True))
    rows = tuple(Row((f"{i:03}.jpg", i % 7), ok=i % 7 < 5) for i in range(50))
    points = [Point(f"{i:03}.jpg", "images", 10.0 ** -(i % 9), 1e-1) for i in range(50)]
    report = Report(
        "Parity: d0", "TensorFlow against PyTorch, 50 images", Verdict(True, "Same detections."),
        (KeyFigure("Agreement AP", "1.000", "0.999 wanted"),),
        (
            Note("Semantics", "Anchors of 2020-09, numpy_gaussian."),
            Table("Stages", (Column("Stage", "name"),), (Row(("decode",)), Row(("resize",))), key="stages"),
            Figure("Error per image", error_over_depth(points, depth="images"), key="images", alternative="Errors.",
                   rows_of="images"),
            Figure("Scores", scatter_against([0.1, 0.9], [0.1, 0.8], ["a", "b"], "TensorFlow", "PyTorch"),
                   key="scores", alternative="Scores of both."),
            Figure("Classes", horizontal_bars({"<cat>": 0.3, "dog": 0.4}, "AP"), key="classes", alternative="Counts."),
            Table("Images", columns, rows, key="images", filter_label="Filter images"),
            Pictures("Largest disagreement", (Picture(jpeg(pixels), "TensorFlow", "TF"),) * 4),
        ),
    )
    write_report(report, tmp_path, "parity")
    opened = open_page(browser, tmp_path / "parity.html")
    page = opened.page
    assert page.locator(".plot[data-ready=yes]").count() == 3
    assert "<cat>" in page.locator("#plot-classes .yaxislayer-above").text_content()
    page.get_by_label("only failing").check()
    assert len(opened.column("Image", "images")) == sum(i % 7 >= 5 for i in range(50))
    assert opened.column("Stage", "stages") == ["decode", "resize"], "filters touch their own table only"
    opened.heading("Stage", "stages").locator("button").click()
    opened.heading("Stage", "stages").locator("button").click()
    assert opened.column("Stage", "stages") == ["resize", "decode"]
    for width, beside in ((1280, 2), (375, 1)):
        page.set_viewport_size({"width": width, "height": 800})
        images = page.locator(".pictures img")
        images.last.scroll_into_view_if_needed()
        opened.wait_until("[...document.querySelectorAll('.pictures img')].every((one) => one.naturalWidth === 40)")
        tops = [images.nth(place).bounding_box()["y"] for place in range(4)]
        assert tops.count(tops[0]) == beside
        opened.wait_until("document.documentElement.scrollWidth <= innerWidth")
    assert opened.messages == []
    page.context.close()
