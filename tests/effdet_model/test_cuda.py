"""On a GPU: the CPU's outputs and detections. Skipped where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from effdet_model import Detector, create_model
from effdet_model.anchors import anchors_from_config
from effdet_model.engines import create_engine
from effdet_model.nms import postprocess

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SIZE = (128, 192)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = create_model("d0", image_size=SIZE, num_classes=5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of the data: else outputs are so small that half precision rounds them to zero
        model.train()(images())
    return model.eval()


@pytest.fixture(autouse=True)
def exact_float32() -> Any:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def images() -> torch.Tensor:
    return torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def distance(found: Any, expected: Any) -> float:
    """Largest difference of any level over that level's largest value."""
    pairs = zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True)
    return max(float((one.cpu().float() - other).abs().max() / other.abs().max()) for one, other in pairs)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["exact", "torch"])
def test_engines(name: str, channels_last: bool, model: Any) -> None:
    with torch.inference_mode():
        expected = model(images())
    engine = create_engine(name, model.cuda(), channels_last=channels_last)
    assert distance(engine(images()), expected) < 1e-3
    with torch.autocast("cuda", torch.float16):
        assert distance(engine(images()), expected) < 0.1


@pytest.mark.parametrize("profile", ["numpy_gaussian", "graph_hard", "graph_gaussian", "global_hard", "torchvision"])
def test_suppression_of_outputs_on_the_device(profile: str, model: Any) -> None:
    torch.manual_seed(2)
    outputs = [[torch.randn(2, count, *level.shape[-2:]) - offset for level in levels] for levels, count, offset in
               zip(model(images()), (45, 36), (2.0, 0.0), strict=True)]  # fmt: skip
    anchors = torch.from_numpy(anchors_from_config(model.config))
    here = postprocess(profile, *outputs, anchors, 5, [1.0, 2.0], SIZE, [SIZE, SIZE])
    there = [[level.cuda() for level in levels] for levels in outputs]
    device = postprocess(profile, *there, anchors.cuda(), 5, [1.0, 2.0], SIZE, [SIZE, SIZE])
    for one, other in zip(here, device, strict=True):
        assert len(one) == len(other)
        np.testing.assert_allclose(np.sort(one[:, 4]), np.sort(other[:, 4]), atol=1e-5)


def test_detector(model: Any) -> None:
    picture = np.random.RandomState(0).randint(0, 256, (100, 150, 3)).astype(np.uint8)
    (one,), (other,) = Detector(model)(picture), Detector(model, device="cuda")(picture)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
