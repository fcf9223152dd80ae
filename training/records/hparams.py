"""The model's configuration as google/automl's --hparams takes it: for `diff` and `parity` of what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from effdet_model.config import EfficientDetConfig
from effdet_model.hparams import MODEL_HPARAMS
from porting.files import atomic_write

HPARAMS_FILE = "hparams.yaml"


def write_hparams(config: EfficientDetConfig, folder: Path) -> Path:
    """Write hparams.yaml; its path."""
    path = folder / HPARAMS_FILE
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(hparams_of(config), sort_keys=True, allow_unicode=True), encoding="utf-8")
    return path


def hparams_of(config: EfficientDetConfig) -> dict[str, Any]:
    """google/automl's keys, with its way to write an image size: WIDTHxHEIGHT."""
    fields = config.to_dict()
    height, width = config.image_size
    chosen = {name: fields[name] for name in MODEL_HPARAMS if fields.get(name) is not None}
    chosen["image_size"] = f"{width}x{height}"
    return chosen
