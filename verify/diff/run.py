"""The layer-by-layer diff: TensorFlow and PyTorch on the same inputs, and where they first part."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.errors import InputError, unknown_name
from verify.diff.causes import Investigation, Suspect, find_cause
from verify.diff.comparison import compare
from verify.diff.result import Cause, Difference, DiffResult, InputResult, LayerResult
from verify.reference.import_order import survive_tensorflow
from verify.reference.process import ReferenceLayer, ReferenceProcess

if TYPE_CHECKING:
    from torch import Tensor

    from effdet_model import EfficientDet, EfficientDetConfig
    from porting.checkpoint.sources import Source
    from verify.diff.inputs import DiffInput

DEFAULT_TOLERANCES = {
    ("float64", True): 1e-9,
    ("float64", False): 1e-9,
    ("float32", True): 1e-5,
    ("float32", False): 5e-5,
}
"""(dtype, isolate) -> largest difference of a layer, relative to its largest absolute reference value.

Rounding alone: at most 6e-15, 6e-15, 1e-6 and 3e-6 over all variants at 128 x 128 with made-up weights.
"""

Progress = Callable[[str, str, Difference], None]
"""Called with input name, layer name and difference, layer by layer."""


@dataclass(frozen=True)
class DiffOptions:
    """How to compare.

    Attributes:
        image_size: (height, width); the config's by default.
        images: files that go through the exact preprocessing. noise_seeds: one noise input each; seed 0 where
            neither is given.
        dtype: "float32" or "float64" (the proof: what is left is not rounding).
        isolate: feed every PyTorch layer with the reference's own input of that layer.
        tolerance: relative; None takes `DEFAULT_TOLERANCES`.
        variables: "auto" (moving averages where the checkpoint has them), "ema" or "raw".
        reference: "tensorflow", "automl:DIR" (a clone of google/automl) or "savedmodel:DIR".
        overrides: config fields, e.g. parsed from --hparams.
    """

    image_size: tuple[int, int] | None = None
    images: Sequence[str | Path] = ()
    noise_seeds: Sequence[int] = ()
    dtype: str = "float32"
    isolate: bool = False
    tolerance: float | None = None
    variables: str = "auto"
    reference: str = "tensorflow"
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """The tolerance that holds."""
        return DEFAULT_TOLERANCES[self.dtype, self.isolate] if self.tolerance is None else self.tolerance


def run_diff(
    checkpoint: str | Path,
    weights: str | Path,
    variant: str | None = None,
    options: DiffOptions | None = None,
    progress: Progress | None = None,
) -> DiffResult:
    """Compare a checkpoint in TensorFlow with a weight file in PyTorch, layer by layer.

    Args:
        checkpoint: anything `porting.checkpoint.sources.open_source` opens.
        weights: .pth or .safetensors; its metadata sets the config.
        variant: may be left out where the weights' metadata names it.

    Raises:
        InputError: wrong options, unreadable files, weights that do not fit, or a reference that fails.
    """
    options = options or DiffOptions()
    kind, folder = _checked(options)
    started = time.perf_counter()
    with ReferenceProcess(kind, folder) as reference:
        survive_tensorflow()
        from effdet_model import create_model
        from porting.checkpoint.sources import open_source

        with open_source(checkpoint) as source:
            source.start_hashing()
            model = create_model(
                variant, weights=weights, image_size=options.image_size, **dict(options.overrides)
            )
            result = diff_model(model, source, reference, options, progress)
            seconds = {**result.seconds, "total": time.perf_counter() - started}
            return _with_files(result, source, Path(weights), seconds)


def diff_model(
    model: EfficientDet,
    source: Source,
    reference: ReferenceProcess,
    options: DiffOptions,
    progress: Progress | None = None,
) -> DiffResult:
    """Compare a model in memory with the TensorFlow reference of its config and a checkpoint's variables."""
    import torch

    from verify.diff.environment import environment
    from verify.diff.inputs import make_inputs

    config = model.config
    _check_comparable(config)
    kind, _ = source.meant(list(source.variables), options.variables)  # type: ignore[arg-type]
    inputs = make_inputs(config, options.images, options.noise_seeds)
    model = model.to(getattr(torch, options.dtype)).eval()
    reference.open(
        config.to_dict(), lambda name: source.read(name, kind), options.dtype, source.backbone_scope
    )
    results = []
    layers: dict[str, LayerResult] = {}
    seconds = {"port": 0.0, "reference_wait": 0.0}
    suspect: Suspect | None = None
    for item in inputs:
        run = _Run(item, model, reference, options, progress)
        run.execute()
        results.append(run.result())
        _keep_worst(layers, run.differences, item.name)
        seconds["port"] += run.seconds - run.waited
        seconds["reference_wait"] += run.waited
        if run.suspect and (suspect is None or _order(layers, run.suspect) < _order(layers, suspect)):
            suspect = run.suspect
    cause: Cause | None = None
    if suspect is not None:
        cause = find_cause(Investigation(model, source, kind, reference, suspect, options.limit))
    return DiffResult(
        variant=config.name, config=config.to_dict(), source=source.label, weights="", variables=kind,
        reference=options.reference, dtype=options.dtype, isolate=options.isolate, image_size=config.image_size,
        tolerance=options.limit, layers=tuple(layers.values()), inputs=tuple(results),
        first_divergent_layer=suspect.name if suspect else None, cause=cause,
        environment={
            **environment(reference.versions),
            "seeds": " ".join(item.name.removeprefix("noise-") for item in inputs if item.kind == "noise"),
        },
        seconds=seconds,
    )


class _Run:
    """One input through both frameworks, compared as the layers come."""

    def __init__(
        self, item: DiffInput, model: EfficientDet, reference: ReferenceProcess, options: DiffOptions,
        progress: Progress | None,
    ) -> None:
        self.item, self.model, self.options, self.progress = item, model, options, progress
        self.images = np.ascontiguousarray(item.array.transpose(0, 2, 3, 1))
        self.coming = reference.layers(self.images)
        self.everything = reference.kind == "tensorflow"
        self.early: dict[str, ReferenceLayer] = {}
        self.differences: dict[str, Difference] = {}
        self.suspect: Suspect | None = None
        self.waited = self.seconds = 0.0

    def execute(self) -> None:
        import torch

        started = time.perf_counter()
        images = torch.from_numpy(self.item.array).to(next(self.model.parameters()).dtype)
        with torch.inference_mode():
            try:
                self.model(images, observe=self._observe)
            except RuntimeError as error:
                if self.suspect is None:
                    raise
                self._note_failure(error)
        self._finish()
        self.seconds = time.perf_counter() - started

    def result(self) -> InputResult:
        """The worst of this input."""
        worst = max(self.differences, key=lambda name: self.differences[name].max_rel)
        return InputResult(
            name=self.item.name, kind=self.item.kind, sha256=self.item.sha256,
            max_abs=max(difference.max_abs for difference in self.differences.values()),
            max_rel=self.differences[worst].max_rel, worst_layer=worst,
            first_divergent_layer=self.suspect.name if self.suspect else None,
        )

    def _observe(self, name: str, out: Tensor) -> Tensor | None:
        import torch

        layer = self._reference_layer(name)
        if layer is None:
            return None
        port = out.permute(0, 2, 3, 1)
        difference = compare(layer.output, port, self.options.limit)
        self.differences[name] = difference
        if not difference.ok and self.suspect is None:
            self.suspect = Suspect(
                name, difference, layer.output, port.cpu().numpy().copy(), layer.variables, self.images
            )
        if self.progress:
            self.progress(self.item.name, name, difference)
        if not self.options.isolate:
            return None
        return torch.from_numpy(layer.output).permute(0, 3, 1, 2).contiguous()

    def _reference_layer(self, name: str) -> ReferenceLayer | None:
        """The reference's layer of this name; layers that come before their turn wait."""
        started = time.perf_counter()
        try:
            while name not in self.early:
                layer = next(self.coming, None)
                if layer is None:
                    if self.everything or self.options.isolate:
                        raise InputError(
                            f"reference ({self.options.reference}): expected layer {name}, found that the "
                            "reference does not give it; compare without --isolate, or with this project's "
                            "own reference."
                        )
                    return None
                self.early[layer.name] = layer
            return self.early.pop(name)
        finally:
            self.waited += time.perf_counter() - started

    def _finish(self) -> None:
        """Take what is left of the reference's layers; a sound port leaves none."""
        left = [*self.early, *(layer.name for layer in self.coming)]
        if not self.differences or (left and not self.suspect):
            raise InputError(
                f"reference ({self.options.reference}): expected only layers that the PyTorch model has, found "
                f"{', '.join(left[:5]) or 'no common layer'}; the variant or --hparams are of another model."
            )

    def _note_failure(self, error: RuntimeError) -> None:
        """The model could not go on after a divergence; what was compared so far stands."""
        assert self.suspect is not None
        reason = " ".join(str(error).split())[:200]
        name = self.suspect.name
        note = "; ".join(filter(None, [self.differences[name].note, f"the port stopped after it: {reason}"]))
        self.differences[name] = dataclasses.replace(self.differences[name], note=note)


def _keep_worst(layers: dict[str, LayerResult], found: Mapping[str, Difference], input_name: str) -> None:
    for name, difference in found.items():
        known = layers.get(name)
        if known is None or difference.max_rel > known.difference.max_rel:
            layers[name] = LayerResult(name, difference, input_name)


def _order(layers: Mapping[str, LayerResult], suspect: Suspect) -> int:
    return list(layers).index(suspect.name)


def _checked(options: DiffOptions) -> tuple[str, Path | None]:
    """The kind of reference and its folder."""
    if options.dtype not in ("float32", "float64"):
        raise unknown_name("dtype", options.dtype, ["float32", "float64"])
    if options.variables not in ("auto", "ema", "raw"):
        raise unknown_name("variables", options.variables, ["auto", "ema", "raw"])
    if not options.limit >= 0:
        raise InputError(f"tolerance: expected a number >= 0, found {options.tolerance}; e.g. 1e-5.")
    kind, separator, folder = options.reference.partition(":")
    if kind not in ("tensorflow", "automl", "savedmodel"):
        raise unknown_name("reference", kind, ["tensorflow", "automl:DIR", "savedmodel:DIR"])
    if kind == "tensorflow":
        return kind, None
    if not separator or not Path(folder).is_dir():
        raise InputError(
            f"reference: expected {kind}:DIR with a folder that exists, found {options.reference!r}; name it."
        )
    if options.dtype != "float32":
        raise InputError(
            f"reference {kind}: expected --dtype float32, the precision it was written for, found "
            f"{options.dtype}; the double-precision proof needs this project's own reference."
        )
    if options.isolate:
        raise InputError(
            f"reference {kind}: expected no --isolate, since it does not give every layer; leave one of them out."
        )
    if kind == "savedmodel":
        logging.getLogger(__name__).warning(
            "reference savedmodel: %s is a program and will be executed; go on only if you trust who made it.", folder
        )
    return kind, Path(folder)


def _check_comparable(config: EfficientDetConfig) -> None:
    """Refuse what TensorFlow's official model does not have; a wrong padding or epsilon is for the diff to find."""
    from verify.reference.backbone import SCALING

    known = [f"efficientnet-{name}" for name in SCALING]
    if config.backbone_name not in known or (config.fpn_name or "").startswith("pan"):
        raise InputError(
            f"diff of {config.name}: expected a model that google/automl has (a backbone efficientnet-*, BiFPN or "
            f"QuFPN), found backbone {config.backbone_name}, fpn_name {config.fpn_name}; models that exist in "
            "PyTorch only have no reference."
        )


def _with_files(result: DiffResult, source: Source, weights: Path, seconds: Mapping[str, float]) -> DiffResult:
    """The result with names and checksums of the files compared."""
    from porting.weights.files import file_sha256

    found = {
        **result.environment,
        "checkpoint_sha256": source.sha256(),
        "weights_sha256": file_sha256(weights),
    }
    return dataclasses.replace(result, weights=str(weights), environment=found, seconds=seconds)

