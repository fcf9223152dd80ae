"""Names and shapes expected against found, the one text of it, and bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effdet_model.fit import MESSAGE_LIMIT, Mismatch, compare, listed, same_bits, shortened


def test_what_fits_is_false() -> None:
    assert not compare({"a": (1, 2)}, {"a": (1, 2)}, {"a": "bfloat16"})
    assert compare({}, {}).text() == ""


def test_every_kind_of_mismatch() -> None:
    found = compare(
        {"net/bias": (3,), "kernel": (3, 3), "half": (), "wide": (2,)},
        {"net/bais": (3,), "kernel": (3, 4), "half": (), "wide": (2,)},
        {"half": "float16", "wide": "float64"},
    )
    assert found == Mismatch(("net/bias",), ("net/bais",), {"kernel": ((3, 4), (3, 3))}, {"wide": "float64"})
    assert found.sentence("W: found ", ". Nothing was written.") == (
        "W: found 1 missing: net/bias (nearest: net/bais); 1 left over: net/bais; 1 of another shape: kernel [3, 4] "
        "instead of [3, 3]; 1 not float32: wide (float64). Nothing was written."
    )


def test_a_message_is_short_whatever_is_wrong() -> None:
    names = [f"efficientnet-b0/blocks_{i}/tpu_batch_normalization_{'x' * (i % 300)}/gamma" for i in range(900)]
    expected = {name: (i,) for i, name in enumerate(names[:600])}
    other = {name: (i + 1,) for i, name in enumerate(names[300:])}
    text = compare(expected, other, dict.fromkeys(names, "int8")).sentence("C" * 100 + ": found ", ". Do something.")
    assert len(text) <= MESSAGE_LIMIT and text.endswith(". Do something.")
    assert "300 missing: " in text and "300 left over: " in text and "more; " in text


def test_lists_count_what_they_leave_out() -> None:
    names = [str(number) for number in range(20)]
    assert listed(names, 3) == "0, 1, 2, and 17 more"
    assert listed(names[:3]) == "0, 1, 2" and listed([]) == ""
    assert listed(["a" * 50, "b" * 50, "c"], room=80) == "a" * 50 + ", and 2 more"
    assert len(shortened("x" * 76_000)) <= 120 and shortened("short") == "short"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_bits_of_arrays_and_tensors(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    changed = array.copy()
    changed[1, 2] = not changed[1, 2] if dtype == "bool" else changed[1, 2] + 1
    for make in (np.asarray, torch.from_numpy):
        assert same_bits(make(array), make(array.copy()))
        assert not same_bits(make(array), make(changed))
        assert not same_bits(make(array), make(array.reshape(3, 2)))
        assert same_bits(make(array).T, make(array.copy()).T)


def test_bits_tell_what_equality_does_not() -> None:
    nan, zero = np.array([np.nan, 0.0], np.float32), np.array([np.nan, -0.0], np.float32)
    assert same_bits(nan, nan.copy()) and not same_bits(nan, zero)
    assert not same_bits(np.zeros(2, np.float32), np.zeros(2, np.int32))
    assert same_bits(np.array(1.5), np.array(1.5)) and same_bits(torch.tensor(3), torch.tensor(3))
    half = torch.tensor([1.0, float("nan")], dtype=torch.bfloat16)
    assert same_bits(half, half.clone()) and not same_bits(half, half.half())


@pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m", "a\nb", "\u202ebackwards", "bell\x07", "\x9b2J"])
def test_names_do_not_steer_the_terminal(name: str) -> None:
    text = compare({"kernel": ()}, {name: (), "kernel": (2,)}).text()
    assert text.isprintable() and listed([name]).isprintable() and listed([name]) in text
    assert listed(["d\u00e9j\u00e0"]) == "d\u00e9j\u00e0"
