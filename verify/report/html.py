"""Reports as one HTML page that needs no network: styles, scripts, plots and pictures are inside."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path

from effdet_model.extras import needs
from porting.files import atomic_write
from verify.report.blocks import Figure, Picture, Report

with needs("report", "HTML report"):
    import jinja2
    from markupsafe import Markup

_PLOTLY_SETTINGS = 'window.PlotlyConfig = {MathJaxConfig: "local"};'


def render_html(report: Report) -> str:
    """The page. Every name in it is escaped; its policy forbids network and any script but its own."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("verify.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"inline_picture": _inline_picture, "plot": _plot}
    blocks = report.shown_in("html")
    has_plots = any(isinstance(block, Figure) for block in blocks)
    scripts = [_PLOTLY_SETTINGS, _plotly_js()] if has_plots else []
    scripts.append(_asset("report.js"))
    return environment.get_template("page.html.j2").render(
        report=report,
        blocks=blocks,
        policy=_policy(scripts),
        style=Markup(_asset("report.css")),
        scripts=[Markup(script) for script in scripts],
    )


def write_html(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(render_html(report), encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """A Content-Security-Policy: nothing is loaded, and only these scripts run."""
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


@cache
def _plotly_js() -> str:
    with needs("report", "HTML report"):
        from plotly.offline import get_plotlyjs
    return _as_script(get_plotlyjs())


@cache
def _asset(name: str) -> str:
    text = resources.files("verify.report").joinpath("templates", name).read_text(encoding="utf-8")
    return _as_script(text)


def _as_script(text: str) -> str:
    """Text as a browser reads it back from the page, so that its hash is right."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if "</script" in plain.lower() or "</style" in plain.lower() or "<!--" in plain:
        raise ValueError("this script cannot stand inside a page: it has a tag that ends or hides it")
    return plain


def _plot(block: Figure) -> dict[str, object]:
    """The figure as plain data; jinja2's `tojson` makes it safe inside a script element."""
    return json.loads(block.figure.to_json())


def _inline_picture(picture: Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode('ascii')}"
