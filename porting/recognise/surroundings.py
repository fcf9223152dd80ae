"""What the names around a file say of its variant: its path, its URL, an archive's folders, the `checkpoint` file.

Many variants have the same shapes (d0 and d0_ap, d6 and d7); then only such names tell them apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_COMPONENTS = 4
_VARIANT = re.compile(
    r"(?<![a-z0-9])(?P<full>(?:tf[-_])?(?:efficientdet|effdet)[-_]?)?"
    r"(?P<base>d7x|d[0-7]|lite3x|lite[0-4])(?:[-_]?(?P<suffix>ap|advprop|adv[-_]prop|640)(?:x640)?)?(?![a-z0-9])"
)
_FAMILY = re.compile(r"(?<![a-z0-9])(?P<suffix>advprop|adv[-_]prop|coco[-_]?640)(?![a-z0-9])")


@dataclass(frozen=True)
class Named:
    """What names say: `variants` as written (d3, d0_ap); `decided`: the one candidate that they leave, if one."""

    decided: str | None
    variants: tuple[str, ...]


def around(path: str | Path, *more: str) -> tuple[str, ...]:
    """The names to ask: the last folders of a path and its file, and further paths or URLs."""
    return (os.path.abspath(path), *more)


def named_variant(candidates: Sequence[str], names: Iterable[str]) -> Named:
    """Which of several candidates the names around a file say it is.

    A name such as efficientdet-d0 means d0, with a family's name (advprop, coco640) around it d0_ap or d0_640. Names
    that disagree decide nothing. Names with "efficientdet" in them go before bare ones such as d0.
    """
    full: set[str] = set()
    bare: set[str] = set()
    suffixes: set[str] = set()
    for name in names:
        for part in re.split(r"[/\\]+", name.lower())[-_COMPONENTS:]:
            for match in _VARIANT.finditer(part):
                (full if match["full"] else bare).add(match["base"])
                suffixes |= {_suffix(match["suffix"])} if match["suffix"] else set()
            suffixes |= {_suffix(match["suffix"]) for match in _FAMILY.finditer(part)}
    bases = full or bare
    left = [name for name in candidates if _base(name) in bases] or list(candidates)
    fitting = [name for name in left if _ending(name) in suffixes]
    plain = [name for name in left if not _ending(name)]
    if fitting:
        left = fitting
    elif any(_base(name) in bases for name in left):
        left = plain
    said = tuple(sorted(base + suffix for base in bases for suffix in sorted(suffixes) or [""]))
    decided = left[0] if len(left) == 1 and (fitting or _base(left[0]) in bases) else None
    return Named(decided, said)


def contradicts(variant: str, named: Named) -> bool:
    """Whether names speak of other variants alone than the shapes do."""
    bases = {_base(name) for name in named.variants}
    return bool(bases) and _base(variant) not in bases


def _base(name: str) -> str:
    return name.removeprefix("efficientdet_").removesuffix("_ap").removesuffix("_640")


def _ending(name: str) -> str:
    return "_ap" if name.endswith("_ap") else "_640" if name.endswith("_640") else ""


def _suffix(word: str) -> str:
    return "_640" if "640" in word else "_ap"
