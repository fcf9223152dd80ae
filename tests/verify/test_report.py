"""Reports as text: files, Markdown, terminal, escaping; the page in a browser is tested in test_report_page.py."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console

from effdet_model.errors import InputError
from tests.verify.report_cases import HOSTILE, failing_diff, jpeg, layer_names, made_up_diff
from verify.diff.result import Cause
from verify.report import print_diff, write_diff_report, write_report
from verify.report.blocks import Column, Facts, KeyFigure, Note, Picture, Pictures, Report, Row, Table, Verdict
from verify.report.diff import diff_report
from verify.report.figures import Point, error_over_depth
from verify.report.html import render_html
from verify.report.markdown import render_markdown


def hostile_diff():
    cause = Cause("not_recognised", HOSTILE, (HOSTILE,), HOSTILE)
    diff = failing_diff(source=HOSTILE, input_name=HOSTILE)
    layers = (dataclasses.replace(diff.layers[0], name=HOSTILE), *diff.layers[1:])
    return dataclasses.replace(
        diff, cause=cause, layers=layers, environment={HOSTILE: HOSTILE}, config={"label_map": {"1": HOSTILE}}
    )


class Page(HTMLParser):
    """Elements, texts and attributes of a page, read by a parser that knows where scripts end."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data.strip())


def test_three_files_are_written_into_a_new_folder(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    paths = write_diff_report(made_up_diff(), folder)
    assert [path.name for path in paths] == ["diff.json", "diff.md", "diff.html"]
    assert sorted(path.name for path in folder.iterdir()) == ["diff.html", "diff.json", "diff.md"]
    data = json.loads(paths[0].read_text())
    assert data["passed"] is True and len(data["layers"]) == len(layer_names())
    assert paths[1].read_text().startswith("# Layer diff: d0\n\n**✅ ")
    assert paths[2].stat().st_size < 5.5e6


def test_a_file_in_the_folders_place_is_named(tmp_path: Path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(InputError, match=r"report folder .*report: expected a folder that can be made, found: "):
        write_diff_report(made_up_diff(), tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"


def test_a_failed_write_leaves_the_old_page(tmp_path: Path):
    report = Report("t", "s", Verdict(True, "v"), (), (Pictures("P", (Picture(b"no picture", "x"),)),))
    (tmp_path / "parity.html").write_text("old")
    with pytest.raises(InputError, match="expected PNG, JPEG, WebP or GIF, found bytes that start with b'no pictu'"):
        write_report(report, tmp_path, "parity")
    assert (tmp_path / "parity.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parity.html", "parity.md"]


def test_the_page_loads_nothing_and_runs_only_its_own_scripts():
    text = render_html(diff_report(failing_diff()))
    page = Page(text)
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy and "connect-src 'none'" in policy
    script_rule = next(rule for rule in policy.split("; ") if rule.startswith("script-src "))
    assert "unsafe" not in script_rule and script_rule.count("'sha256-") == 3
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_hostile_names_stay_text_in_the_page():
    page = Page(render_html(diff_report(hostile_diff())))
    scripts = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert scripts == ["application/json", None, None, None]
    assert page.texts.count(HOSTILE) >= 6
    figure = json.loads(page.scripts[0])
    hovers = [text for trace in figure["data"] for text in trace.get("text", [])]
    assert any("&lt;/script&gt;" in hover for hover in hovers)
    assert not any("<script" in json.dumps(trace) for trace in figure["data"])


def test_markdown_shows_hostile_names_as_they_are():
    text = render_markdown(diff_report(hostile_diff(), with_figure=False))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= {
        "h1", "h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "details",
        "summary",
    }
    shown = "".join(page.texts)
    assert shown.count(HOSTILE) >= 6
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert widths <= {3, 6, 7}, "a name with a bar in it must not add a column"


def test_markdown_has_verdict_worst_layers_cause_and_checksums():
    text = render_markdown(diff_report(failing_diff(), with_figure=False))
    assert "**❌ Not the same function: 54 of 86 layers beyond 1e-09 (float64); first at" in text
    assert "## Likely cause\n\nTwo BiFPN edge weights" in text
    worst = text[text.index("## Worst 12 of 86 layers") :].splitlines()[4]
    assert worst == "| `class_net.predict.level.3` | 1×8×8×64 | ∞ | ∞ | beyond |"
    assert "| weights sha256 | `fedcba9876543210" in text
    assert text.count("<details>") == text.count("</details>") == 2
    assert "cause" not in render_markdown(diff_report(made_up_diff(), with_figure=False))
    assert len(text) < 125_000, "the most that a release page takes"


def test_terminal_shows_worst_layers_first_and_the_verdict_last():
    console = Console(file=io.StringIO(), width=80)
    print_diff(failing_diff(), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "\x1b" not in "".join(lines), "no colour in a file"
    start = lines.index("Worst 12 of 86 layers")
    assert lines[start + 2].split() == ["class_net.predict.level.3", "1×8×8×64", "∞", "∞", "beyond"]
    assert lines[start + 3].split()[0] == "box_net.predict.level.7"
    assert lines[-1].startswith("FAILED  Not the same function: 54 of 86 layers")
    assert any(line.startswith("Likely cause: Two BiFPN edge weights") for line in lines)


def test_terminal_is_coloured_and_takes_names_as_they_are():
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    print_diff(failing_diff(input_name="[red]photo[/red].jpg"), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[" in text and "[red]photo[/red].jpg" in text


@pytest.mark.parametrize("error", [math.nan, math.inf, 0.0, 5e-324])
def test_every_medium_takes_odd_numbers(error: float):
    diff = made_up_diff(errors={"backbone.stem": error})
    report = diff_report(diff)
    assert render_markdown(report) and Page(render_html(report)).texts
    figure = json.loads(next(block for block in report.blocks if block.title == "Error over depth").figure.to_json())
    values = [value for trace in figure["data"] for value in trace["y"]]
    assert all(value > 0 for value in values), "all of them can stand on a log axis"
    assert all(math.isfinite(end) for end in figure["layout"]["yaxis"]["range"])


def test_a_diff_without_layers_is_a_failure_and_not_a_crash(tmp_path: Path):
    empty = dataclasses.replace(made_up_diff(), layers=(), inputs=(), environment={}, seconds={})
    paths = write_diff_report(empty, tmp_path)
    assert "❌" in paths[1].read_text()


def test_points_beyond_tolerance_differ_in_more_than_colour():
    points = [Point("a", "x", 1e-12, 1e-9), Point("b", "x", 1e-3, 1e-9), Point("c", "y", math.nan, 1e-9)]
    figure = error_over_depth(points, "b")
    x, y, tolerance = figure.data
    assert list(x.marker.size) == [6, 8] and list(x.marker.line.width) == [0, 1.5]
    assert list(y.marker.size) == [8] and x.marker.symbol[0] != y.marker.symbol[0]
    assert list(tolerance.y) == [1e-9] * 3
    assert figure.layout.annotations[0].x == 1


@pytest.mark.parametrize(
    ("column", "value", "text", "key"),
    [
        (Column("c", "number", ".2e"), 1.5e-7, "1.50e-07", "1.5e-07"),
        (Column("c", "number", ".2e"), 0.0, "0", "0.0"),
        (Column("c", "number", ".2e"), math.inf, "∞", "Infinity"),
        (Column("c", "number", ".2e"), -math.inf, "−∞", "-Infinity"),
        (Column("c", "number", ".2e"), math.nan, "–", ""),
        (Column("c", "number"), 12, "12", "12.0"),
        (Column("c", "shape"), (1, 4, 8, 3), "1×4×8×3", "96"),
        (Column("c", "shape"), (), "scalar", "1"),
        (Column("c", "index"), (0, 3), "0, 3", "0, 3"),
        (Column("c"), None, "–", ""),
    ],
)
def test_columns_write_and_sort_values(column: Column, value: object, text: str, key: str):
    assert column.text(value) == text
    assert column.sort_key(value) == key


def test_a_row_with_missing_values_is_refused():
    with pytest.raises(ValueError, match="table t: 1 columns, 2 values"):
        Table("T", (Column("a"),), (Row((1, 2)),), key="t")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/home/someone/models/d0/model.ckpt", "…/d0/model.ckpt"),
        ("/d0/model", "/d0/model"),
        ("models/a/d0.pth", "models/a/d0.pth"),
        ("https://example.com/a/b/d0.tar.gz", "https://example.com/a/b/d0.tar.gz"),
    ],
)
def test_published_pages_do_not_tell_where_a_file_lay(name: str, shown: str):
    text = render_markdown(diff_report(made_up_diff(source=name), with_figure=False))
    assert f"| checkpoint | `{shown}` |" in text


def test_facts_are_flattened_in_order():
    facts = Facts("F", {"b": {"x": 1, "y": [1, (2, None)]}, "a": True, "e": {}, "n": None})
    assert facts.rows() == [("b.x", "1"), ("b.y", "1, 2, –"), ("a", "yes"), ("e", "–"), ("n", "–")]


def test_pictures_are_carried_inside_and_stay_the_same():
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 6:] = 255
    picture = Picture(jpeg(pixels), "black and white", "edge")
    report = Report("t", "s", Verdict(True, "v"), (), (Pictures("P", (picture,)),))
    page = Page(render_html(report))
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == "black and white" and image["src"].startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(picture.data)) as decoded:
        assert decoded.size == (12, 8)
    assert len(page.scripts) == 1, "a page without plots does not carry the plotting library"


def test_blocks_stand_where_they_are_meant_to_and_empty_ones_nowhere():
    note = Note("Only terminal", "text", media=frozenset(("terminal",)))
    table = Table("Empty", (Column("a"),), (), key="e")
    report = Report("t", "s", Verdict(False, "v", "missed"), (KeyFigure("n", "1"),), (note, table))
    assert report.shown_in("terminal") == [note]
    assert report.shown_in("html") == report.shown_in("markdown") == []
    assert "t: missed" in render_html(report)
