"""The catalog: every released checkpoint, its family's rules, and what is in the cache."""

from __future__ import annotations

import collections
import csv
from pathlib import Path

import pytest

from effdet_model import InputError, get_config
from effdet_model.config import ASPECT_RATIO_PAIRS, ASPECT_RATIOS
from effdet_model.variants import OFFICIAL_VARIANTS
from porting.official.catalog import (
    FAMILIES,
    OFFICIAL_PREFIX,
    catalog,
    config_overrides,
    find,
)


def test_catalog_has_the_35_released_checkpoints() -> None:
    families = collections.Counter(entry.family for entry in catalog())
    assert families == {"coco2": 9, "coco": 9, "coco640": 5, "advprop": 6, "lite": 6}
    assert {entry.variant for entry in catalog()} == set(OFFICIAL_VARIANTS)
    assert len({entry.url for entry in catalog()}) == 35
    for entry in catalog():
        assert entry.url.startswith(OFFICIAL_PREFIX + "/") and entry.url.endswith((".tar.gz", ".tgz"))
        published = [ap for ap in (entry.ap_val, entry.ap_testdev) if ap is not None]
        assert published and all(20 < ap < 60 for ap in published)
        assert entry.source.startswith("google/automl")
        assert (entry.h5_url is not None) == (entry.family in ("coco2", "coco640"))


def test_catalog_equals_the_table_of_the_official_readme(shared: Path) -> None:
    with open(shared / "facts" / "official_checkpoints.csv", newline="") as file:
        rows = {(row["variant"], row["family"]): row for row in csv.DictReader(file)}
    assert len(rows) == len(catalog())
    for entry in catalog():
        row = rows[entry.variant, entry.family]
        for field, text in row.items():
            value = getattr(entry, field)
            assert value == (float(text) if field.startswith("ap") and text else text or None), (entry, field)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("d7x",), "coco2/efficientdet-d7x.tar.gz"),
        (("tf_efficientdet_d0",), "coco2/efficientdet-d0.tar.gz"),
        (("d7x", "coco"), "coco/efficientdet-d7x.tar.gz"),
        (("d0_ap",), "advprop/efficientdet-d0.tar.gz"),
        (("d0", "advprop"), "advprop/efficientdet-d0.tar.gz"),
        (("d2_640",), "coco640/efficientdet-d2-640.tar.gz"),
        (("efficientdet-d2", "coco640", "h5"), "coco640/efficientdet-d2-640.h5"),
        (("lite3x",), "coco/efficientdet-lite3x.tgz"),
        (("d3", None, "h5"), "coco2/efficientdet-d3.h5"),
    ],
)
def test_find(arguments: tuple[str, ...], path: str) -> None:
    assert find(*arguments).path == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("d9",), "unknown variant: 'd9'. Did you mean"),
        (("d0", "coco3"), "unknown family: 'coco3'. Did you mean coco"),
        (("d0", None, "h6"), "unknown kind of checkpoint: 'h6'. Did you mean h5?"),
        (("d0", "lite"), r"d0: expected a family that has it \(coco2, coco\), found lite; family lite has"),
        (("lite0", None, "h5"), "variant lite0, family lite: expected a released .h5, found only a .tar.gz"),
        (("d0", "coco", "h5"), "variant d0, family coco: expected a released .h5"),
        (("efficientdet_d0",), "variant efficientdet_d0 exists in PyTorch only"),
    ],
)
def test_find_says_what_there_is(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find(*arguments)


def test_families_have_the_rules_of_their_day() -> None:
    expected = {
        "coco": (ASPECT_RATIO_PAIRS, "numpy_hard"),
        "coco2": (ASPECT_RATIO_PAIRS, "numpy_gaussian"),
        "coco640": (ASPECT_RATIO_PAIRS, "numpy_gaussian"),
        "advprop": (ASPECT_RATIOS, "graph_gaussian_nocut"),
        "lite": (ASPECT_RATIOS, "graph_gaussian_nocut"),
    }
    assert {f.name: (f.aspect_ratios, f.nms_profile) for f in FAMILIES.values()} == expected
    first = [entry for entry in catalog() if entry.family == "coco"]
    soft = {entry.variant for entry in first if entry.nms_profile == "numpy_gaussian"}
    assert soft == {"d3", "d7", "d7x"}


def test_config_overrides_give_the_anchors_of_the_family() -> None:
    for entry in catalog():
        config = get_config(entry.variant, **config_overrides(entry))
        assert config.aspect_ratios == FAMILIES[entry.family].aspect_ratios
    assert config_overrides(find("d0")) == {"aspect_ratios": ASPECT_RATIO_PAIRS}
    assert config_overrides(find("lite0")) == config_overrides(find("d0_ap")) == {}


def test_the_doubtful_number_is_marked() -> None:
    """The official README gave D3's 47.2 to another file than the one listed; no other entry has a note."""
    assert [(e.variant, e.family) for e in catalog() if e.note] == [("d3", "coco")]
    assert "d3_softnms" in (find("d3", "coco").note or "")
