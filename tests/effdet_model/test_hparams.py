"""google/automl's --hparams."""

from __future__ import annotations

from pathlib import Path

import pytest

from effdet_model import InputError, get_config
from effdet_model.hparams import parse_hparams


def test_pairs() -> None:
    parsed = parse_hparams("num_classes=20,aspect_ratios=1.0*2.0*0.5,nms_configs.method=hard,learning_rate=0.1")
    assert parsed.fields == {
        "num_classes": 20, "aspect_ratios": [1.0, 2.0, 0.5], "nms_configs": {"method": "hard"},
    }  # fmt: skip
    assert parsed.ignored == ("learning_rate",)
    config = get_config("d0", **parsed.fields)
    assert config.nms_configs["method"] == "hard" and config.nms_configs["max_output_size"] == 100


def test_image_size_is_width_first_as_in_the_official_code() -> None:
    assert parse_hparams("image_size=640x384").fields == {"image_size": (384, 640)}
    assert parse_hparams("image_size=256").fields == {"image_size": (256, 256)}


def test_booleans_and_text() -> None:
    fields = parse_hparams("separable_conv=false,conv_bn_act_pattern=true,fpn_name=qufpn,survival_prob=None").fields
    assert fields == {
        "separable_conv": False, "conv_bn_act_pattern": True, "fpn_name": "qufpn", "survival_prob": None,
    }  # fmt: skip


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("num_classes: 3\nfpn_config:\n  weight_method: sum\n  nodes:\n  - feat_level: 3\n"
                    "    inputs_offsets: [0]\naspect_ratios: [[1.0, 1.0], [1.4, 0.7]]\n")  # fmt: skip
    fields = parse_hparams(str(path)).fields
    assert fields["num_classes"] == 3 and fields["fpn_config"]["nodes"][0]["inputs_offsets"] == [0]
    config = get_config("d0", num_classes=3, aspect_ratios=fields["aspect_ratios"])
    assert config.aspect_ratios == ((1.0, 1.0), (1.4, 0.7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_clases=3", "unknown hparams key: 'num_clases'. Did you mean num_classes"),
        ("heads=segmentation", "--hparams heads: expected"),
        ("aspect_ratios=[1.0,2.0]", "separate list items by \\*"),
        ("nothing", "expected a .yaml file or key=value"),
        ("act_type=srelu", "expected an activation without variables of its own"),
        ("image_size=axb", "--hparams image_size: expected WIDTHxHEIGHT or one number, found 'axb'"),
        ("/nowhere/h.yaml", "expected a YAML file, found: No such file"),
    ],
)
def test_bad_hparams(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_hparams(text)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("num_classes: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="expected YAML, found: could not determine a constructor"):
        parse_hparams(str(path))
