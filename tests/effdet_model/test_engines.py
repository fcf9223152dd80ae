"""Engines give what the model gives, at the moment; a model without an inference form runs as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effdet_model import Detector, InputError, create_model
from effdet_model.engines import CurrentEngine, TorchEngine, agrees, create_engine, default_engine, engine_names

SIZE = (128, 96)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return create_model("d0", image_size=SIZE, num_classes=4)


def images(number: int) -> Tensor:
    return torch.randn(number, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def largest(found: Any, expected: Any) -> float:
    pairs = zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def test_batches_are_the_images_one_by_one(model: Any) -> None:
    engine = create_engine("torch", model)
    assert agrees(engine, model, SIZE) and default_engine(model) == "torch"
    together = engine(images(3))
    with torch.inference_mode():
        assert largest(together, model(images(3))) < 1e-4
    for index in range(3):
        one = engine(images(3)[index : index + 1])
        assert largest(one, tuple([level[index : index + 1] for level in part] for part in together)) < 1e-4
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # images go through it side by side
    try:
        assert largest(engine(images(3)), together) < 1e-4 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("hidden", [False, True], ids=["in the open", "by .data"])
def test_a_changed_model_is_seen(model: Any, hidden: bool) -> None:
    current = CurrentEngine(model)
    old, engine = current(images(1)), current.current()
    assert isinstance(engine, TorchEngine) and current.current() is engine
    bias = model.class_net.predict.conv_pw.bias
    with torch.no_grad():
        (bias.data if hidden else bias).add_(1.0)
    assert current.current() is not engine
    assert largest((current(images(1))[0], []), ([level + 1 for level in old[0]], [])) < 1e-4


def test_who_watches_or_changes_a_layer_gets_the_model_itself(model: Any) -> None:
    seen: list[str] = []
    detector = Detector(model)
    assert detector.engine.startswith("inference form")
    handle = model.fpn.register_forward_hook(lambda *_: seen.append("fpn"))
    detector(np.zeros((30, 40, 3), np.uint8))
    assert seen == ["fpn"] and detector.engine == "the model as it is"
    handle.remove()
    assert detector.engine.startswith("inference form")
    model.class_net.predict.conv_pw = nn.Sequential(model.class_net.predict.conv_pw, nn.Tanh())
    with torch.inference_mode():
        expected = model(images(1))
    assert default_engine(model) == "exact" and largest(CurrentEngine(model)(images(1)), expected) == 0


def test_something_wrong_does_not_agree(model: Any) -> None:
    form = TorchEngine(model)
    assert not agrees(lambda x: tuple([level * 1.001 for level in part] for part in form(x)), model, SIZE)


def test_training_mode_stays(model: Any) -> None:
    model.train()
    Detector(model)(np.zeros((30, 40, 3), np.uint8))
    assert all(part.training for part in model.modules())


def test_unknown_engines(model: Any) -> None:
    assert {"torch", "exact", "compile"} <= set(engine_names())
    with pytest.raises(InputError, match="Did you mean torch"):
        Detector(model, engine="torc")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_other_runtimes(
    name: str, model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proved once, kept, and made anew where the file is no longer the one that was proved."""
    pytest.importorskip(name)
    monkeypatch.setenv("EFFDET_PORT_CACHE", str(tmp_path))
    engine = create_engine(name, model)
    with torch.inference_mode():
        assert largest(engine(images(2)), model(images(2))) < 1e-4
    (proof,) = tmp_path.rglob("proved.json")
    (kept,) = (path for path in proof.parent.iterdir() if path.suffix in (".onnx", ".xml"))
    written = kept.stat().st_mtime_ns
    assert largest(create_engine(name, model)(images(2)), engine(images(2))) == 0 and kept.stat().st_mtime_ns == written
    kept.write_bytes(kept.read_bytes() + b" ")
    assert largest(create_engine(name, model)(images(2)), engine(images(2))) == 0 and kept.stat().st_mtime_ns != written
    with pytest.raises(InputError, match="expected a model on the CPU in float32"):
        create_engine(name, model.double())
