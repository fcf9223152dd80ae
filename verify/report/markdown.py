"""Reports in Markdown as GitHub shows it, fit for a release page."""

from __future__ import annotations

import re
from pathlib import Path

from effdet_model.extras import needs
from porting.files import atomic_write
from verify.report.blocks import Column, Report

with needs("report", "Markdown report"):
    import jinja2
    from markupsafe import Markup

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def render_markdown(report: Report) -> str:
    """The report as Markdown; every name in it is escaped, so that it shows as it is written."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("verify.report"), finalize=_finalize, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"code": code, "literal": escape, "cell": _cell, "alignment": _alignment}
    text = environment.get_template("report.md.j2").render(report=report, blocks=report.shown_in("markdown"))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_markdown(report: Report, path: Path) -> None:
    """Write the report, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(render_markdown(report), encoding="utf-8")


def escape(text: str) -> Markup:
    """Text that Markdown shows literally, on one line, in a table's cell too."""
    return Markup(_SPECIAL.sub(r"\\\1", " ".join(text.split())))


def code(text: str) -> Markup:
    """Text as code, in a table's cell too; as HTML where backticks or bars in it would end the code."""
    plain = " ".join(text.split())
    if not plain:
        return Markup("")
    if not re.search(r"[`|\\]", plain):
        return Markup(f"`{plain}`")
    escaped = str(Markup.escape(plain))
    for character in "|\\`*_[]~":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return Markup(f"<code>{escaped}</code>")


def _cell(column_and_text: tuple[Column, str]) -> Markup:
    column, text = column_and_text
    return code(text) if column.kind == "name" else escape(text)


def _alignment(column: Column) -> str:
    return "---:" if column.numeric else "---"


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else escape(str(value))
