"""Make official_outputs.npz: head outputs of google/automl's own code for small models with made-up weights.

    EFFDET_PORT_AUTOML=CLONE python -m tests.data.make_official_outputs

Written with TensorFlow 2.21 and google/automl 6a54c87. Weights come from `tests.verify.diff_cases.deterministic_value`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from tests.verify.diff_cases import make_source, small_config
from verify.reference.process import ReferenceProcess

CASES = {
    "d0": ("d0", (64, 64), {}),
    "lite1": ("lite1", (160, 96), {}),
    "qufpn": ("d0", (80, 96), {"fpn_name": "qufpn"}),
    "attn": ("d0", (65, 127), {"fpn_weight_method": "attn", "act_type": "mish"}),
    "channel_attn": ("d0", (64, 64), {"fpn_weight_method": "channel_attn", "act_type": "hswish"}),
    "conv_bn_act": ("d1", (64, 64), {"conv_bn_act_pattern": True, "act_type": "swish_native"}),
    "plain": ("d0", (64, 64), {"separable_conv": False, "survival_prob": 0.8, "act_type": "relu"}),
    "resampling": ("d0", (128, 192), {"apply_bn_for_resampling": False, "conv_after_downsample": True}),
    "levels": ("d0", (64, 64), {"min_level": 2, "max_level": 6, "fpn_weight_method": "channel_fastattn"}),
}


def main() -> None:
    stored: dict[str, np.ndarray] = {}
    for case, (variant, image_size, overrides) in CASES.items():
        config = small_config(variant, image_size=image_size, **overrides)
        source = make_source(config)
        images = np.random.RandomState(7).standard_normal((1, *image_size, 3)).astype(np.float32)
        with ReferenceProcess("automl", Path(os.environ["EFFDET_PORT_AUTOML"])) as official:
            official.open(config.to_dict(), lambda name, source=source: source.read(name, "ema"))
            for layer in official.layers(images):
                if ".predict." in layer.name:
                    stored[f"{case}|{layer.name}"] = layer.output
        settings = {"variant": variant, "image_size": image_size, "overrides": overrides}
        stored[f"{case}|settings"] = np.array(json.dumps(settings))
        print(case, flush=True)
    np.savez_compressed(Path(__file__).with_name("official_outputs.npz"), **stored)


if __name__ == "__main__":
    main()
