"""Bars: on a terminal what is done, elsewhere nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import porting.progress
from porting.progress import progress, status


class Terminal(io.StringIO):
    """Says of itself that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    make = Console
    monkeypatch.setattr(
        porting.progress, "Console", lambda stderr: make(file=screen, force_terminal=True, width=120)
    )
    return screen


@pytest.mark.parametrize(
    ("unit", "shown"), [("", "20/40"), ("images", "20/40"), ("bytes", "20/40 bytes")]
)
def test_a_bar_on_a_terminal(terminal: Terminal, unit: str, shown: str) -> None:
    with progress("working [/x]", unit) as report:  # type: ignore[arg-type]
        report(10, None)
        report(20, 40)
    assert shown in terminal.getvalue() and "working [/x]" in terminal.getvalue()


def test_nothing_before_the_first_report(terminal: Terminal) -> None:
    with progress("downloading", "bytes"):
        pass
    assert "downloading" not in terminal.getvalue()


def test_a_line_of_words(terminal: Terminal) -> None:
    with status("comparing") as say:
        say("image", "fpn.cell.0", 3)
    assert "comparing" in terminal.getvalue()


def test_nothing_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("converting") as report:
        report(1, 2)
    with status("comparing") as say:
        say("a")
    assert capsys.readouterr() == ("", "")
