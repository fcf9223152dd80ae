"""What to export, and everything about it that can be refused before long work begins."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError, shown, unknown_name
from effdet_model.extras import needs
from effdet_model.nms_profiles import PROFILES, NmsProfile, profile_from_config
from effdet_model.weights import metadata_path
from export.network import InputKind

FORMATS = {
    "onnx": (".onnx",),
    "openvino": (".xml",),
    "torch": (".pt2",),
    "torchscript": (".pt", ".ts", ".torchscript"),
}
"""Format -> how its file's name may end."""
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
    "torchscript": (),
}
WITH_DETECTIONS = ("onnx", "openvino")
TENSORRT, NONE = "tensorrt", "none"
MOST_IMAGES = 4096


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        weights: .pth or .safetensors. output: the file; its suffix must be the format's.
        variant, overrides: where the weights' metadata do not say them, see `effdet_model.create_model`.
        nms: a profile's name: detections inside; "none": the network's levels; "tensorrt": NVIDIA's node.
        batch: how many images at once; None: any number. image_size: (height, width); None: the weights' own.
        kind: "float" or "uint8", see `export.network.ExportedNetwork`. half: compute in float16.
        checkpoint: what the weights came from: the file is then held against TensorFlow. hparams, family: what the user
            declares of it, as in `diff`.
    """

    weights: Path
    output: Path
    format: str = "onnx"
    variant: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    nms: str = NONE
    batch: int | None = 1
    image_size: tuple[int, int] | None = None
    kind: InputKind = "float"
    half: bool = False
    checkpoint: Path | None = None
    hparams: Any = None
    family: str | None = None


def check_options(options: ExportOptions) -> None:
    """Refuse what cannot be written, before the weights are read.

    Raises:
        InputError: an unknown format or name, a suffix of another format, an output that is an input, detections in a
            format that cannot say them, or a package that is not installed.
    """
    if options.format not in FORMATS:
        raise unknown_name("export format", options.format, FORMATS)
    if options.nms not in (*PROFILES, NONE, TENSORRT):
        raise unknown_name("suppression for export", options.nms, [*PROFILES, NONE, TENSORRT])
    output, endings = options.output, FORMATS[options.format]
    if output.suffix not in endings:
        raise InputError(
            f"output {output}: expected a name that ends in {' or '.join(endings)} for --format {options.format}, "
            f"found {output.suffix or 'none'}; rename it or choose another format."
        )
    kept = [options.weights, metadata_path(options.weights)]
    if any(path.resolve() == made.resolve() for path in kept for made in (output, *companions(options))):
        raise InputError(f"output {output}: expected another file than the weights; name another output.")
    if options.nms != NONE and options.format not in WITH_DETECTIONS:
        raise InputError(
            f"export: expected --nms none for --format {options.format}, which has the network alone, found "
            f"{options.nms}; leave --nms out (effdet_model.nms.postprocess does the rest), or choose --format "
            "onnx or openvino."
        )
    if options.nms == TENSORRT and (options.format != "onnx" or options.half):
        raise InputError(
            "export: expected --format onnx without --half for --nms tensorrt, which TensorRT alone reads and casts; "
            "leave the others out."
        )
    if options.half and options.format == "openvino":
        raise InputError(
            "export: expected no --half for --format openvino, whose runtime chooses the precision itself (set its "
            "INFERENCE_PRECISION_HINT); leave it out."
        )
    for package in PACKAGES[options.format]:
        with needs("export", f"export to {options.format}"):
            importlib.import_module(package)


def companions(options: ExportOptions) -> list[Path]:
    """Files that are written beside the output."""
    proof = proof_path(options.output)
    return [options.output.with_suffix(".bin"), proof] if options.format == "openvino" else [proof]


def proof_path(output: Path) -> Path:
    """Where the record of a file lies."""
    return output.with_name(f"{output.name}.proof.json")


def suppression(config: EfficientDetConfig, nms: str) -> NmsProfile | str | None:
    """What stands behind the levels: a profile with what the config sets, `TENSORRT`, or nothing."""
    if nms == NONE:
        return None
    return TENSORRT if nms == TENSORRT else profile_from_config(config, nms)


def parse_batch(text: str) -> int | None:
    """A number of images of at least 1; None for "dynamic".

    Raises:
        InputError: neither.
    """
    if text == "dynamic":
        return None
    if not text.isdecimal() or not 1 <= int(text[:10]) <= MOST_IMAGES:
        raise InputError(
            f"batch: expected dynamic or a number from 1 to {MOST_IMAGES}, found {shown(text)}; correct it."
        )
    return int(text)
