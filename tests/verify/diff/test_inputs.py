"""What both frameworks are fed: what is drawn stays the same, excites every level, and sizes that cannot are told."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from effdet_model import InputError, get_config
from verify.diff.inputs import check_size, draw_picture, drawn, least_size, make_inputs


def test_a_picture_and_noise_are_the_default() -> None:
    config = get_config("d0", image_size=(64, 96))
    inputs = make_inputs(config)
    assert [(item.name, item.kind) for item in inputs] == [("drawn-0", "drawn"), ("noise-0", "noise")]
    assert all(item.array.shape == (1, 3, 64, 96) and item.array.dtype == np.float32 for item in inputs)
    assert [item.name for item in make_inputs(config, noise_seeds=[4])] == ["noise-4"]


def test_the_picture_is_the_same_every_time_and_varied() -> None:
    picture = draw_picture(0, 96, 120)
    assert picture.shape == (96, 120, 3) and picture.dtype == np.uint8
    assert hashlib.sha256(picture.tobytes()).digest() == hashlib.sha256(draw_picture(0, 96, 120).tobytes()).digest()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2000 and picture.std() > 30
    assert not np.array_equal(picture, draw_picture(1, 96, 120))


@pytest.mark.parametrize("variant", ["d0", "lite0", "d0_ap"])
def test_the_picture_passes_the_models_own_preprocessing(variant: str) -> None:
    """Resized and padded: the picture is wider than the input, so rows at the bottom are the padding's zeros."""
    config = get_config(variant, image_size=(128, 128))
    array = drawn(0, config).array[0]
    padding = -1.0 if config.scale_range else 0.0
    assert np.all(array[:, 103:] == padding) and array[:, :102].std() > 0.2


@pytest.mark.parametrize(("level", "side"), [(3, 17), (7, 257), (8, 513)])
def test_the_least_size_gives_three_rows(level: int, side: int) -> None:
    config = get_config("d0", max_level=max(level, 7))
    assert least_size(level) == side
    assert config.feature_sizes((side, side))[level] == (3, 3)
    assert config.feature_sizes((side - 1, side - 1))[level] == (2, 2)


def test_small_levels_are_told_and_useless_sizes_refused() -> None:
    assert check_size(get_config("d0")) == [] and check_size(get_config("lite0")) == []
    (note,) = check_size(get_config("d0", image_size=128))
    assert note.startswith("Levels 6, 7 are below 3 x 3") and "from 257 pixels" in note
    with pytest.raises(InputError, match=r"at least 17 pixels a side.*found 16 x 64; choose 257 or more"):
        check_size(get_config("d0", image_size=(16, 64)))
