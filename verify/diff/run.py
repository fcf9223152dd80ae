"""The diff: configuration, tensors, and layer by layer TensorFlow and PyTorch on the same inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.errors import InputError
from verify.diff.evidence import diff_evidence
from verify.diff.import_order import survive_tensorflow
from verify.diff.options import DEFAULT_TOLERANCES, DiffOptions, checked
from verify.diff.result import Cause, Difference, DiffResult, InputResult, LayerResult
from verify.reference.configuration.config_check import ConfigDifference, config_differences
from verify.reference.configuration.official import all_hparams, declared_hparams, reference_config
from verify.reference.configuration.values import KINDS, Kind, official_values
from verify.reference.process import ReferenceProcess

if TYPE_CHECKING:
    from effdet_model import EfficientDet, EfficientDetConfig
    from porting.checkpoint.sources import Source
    from verify.diff.causes import Suspect
    from verify.diff.layers import Progress
    from verify.diff.tensors import TensorLedger

__all__ = ["DEFAULT_TOLERANCES", "DiffOptions", "diff_model", "run_diff"]


def run_diff(
    checkpoint: str | Path,
    weights: str | Path,
    variant: str | None = None,
    options: DiffOptions | None = None,
    progress: Progress | None = None,
) -> DiffResult:
    """Compare a checkpoint in TensorFlow with a weight file in PyTorch: configuration, tensors, layers.

    Args:
        checkpoint: anything `porting.checkpoint.sources.open_source` opens.
        weights: .pth or .safetensors; its metadata sets the port's config, and nothing of the reference's.
        variant: whose facts the reference takes; None: the one that the weights' metadata name.

    Raises:
        InputError: wrong options, unreadable files, weights that do not fit, or a reference that fails.
    """
    options = options or DiffOptions()
    kind, folder = checked(options)
    started = time.perf_counter()
    with ReferenceProcess(kind, folder) as reference:
        survive_tensorflow()
        from effdet_model.factory import create_model, resolve_config
        from effdet_model.weights import read_metadata
        from porting.checkpoint.sources import open_source

        with open_source(checkpoint) as source:
            source.start_hashing()
            told = "config" in (read_metadata(weights) or {})
            own = resolve_config(variant, weights, **({} if told else dict(options.overrides)))
            comparison = _Comparison(own, source, reference, options, named=variant is not None)
            with comparison.unless_configured_otherwise():
                settings = {**options.overrides, "image_size": comparison.image_size}
                model = create_model(variant, weights=weights, **settings)
                comparison.run(model, progress)
            seconds = {**comparison.seconds, "total": time.perf_counter() - started}
            result = _with_files(comparison.result(), source, Path(weights), seconds)
            record = diff_evidence(result, options, read_metadata(weights), comparison.port_config)
            return dataclasses.replace(result, evidence=record)


def diff_model(
    model: EfficientDet,
    source: Source,
    reference: ReferenceProcess,
    options: DiffOptions,
    progress: Progress | None = None,
) -> DiffResult:
    """Compare a model in memory with the TensorFlow reference of its variant and a checkpoint's variables."""
    comparison = _Comparison(model.config, source, reference, options)
    with comparison.unless_configured_otherwise():
        comparison.run(model, progress)
    return comparison.result()


class _Comparison:
    """Both sides of one diff, and what is found.

    Args:
        config: the port's own. named: whether the user named the variant.
    """

    def __init__(
        self, config: EfficientDetConfig, source: Source, reference: ReferenceProcess, options: DiffOptions,
        named: bool = True,
    ) -> None:  # fmt: skip
        _check_comparable(config)
        self.config, self.source, self.reference, self.options = config, source, reference, options
        self.port_config = config
        shapes = {name: info.shape for name, info in source.variables.items()}
        self.official = reference_config(
            config.name, family=options.family, hparams=options.hparams, shapes=shapes, stated=source.stated
        )
        declared = declared_hparams(options.hparams)
        self.config_differences: tuple[ConfigDifference, ...] = tuple(
            config_differences(self.official, config.to_dict(), declared)
        )
        self.image_size = options.image_size or config.image_size
        self.kind, why = _values(source, options)
        self.notes: list[str] = [f"The reference took the {KINDS[self.kind]}: {why}."]
        if not named:
            self.notes.append(
                f"The variant, {config.name}, was named by the weights' metadata alone; the reference took google/"
                "automl's facts of that name."
            )
        self.notes += [f"Of the checkpoint: {note}." for note in source.notes]
        self.layers: dict[str, LayerResult] = {}
        self.inputs: list[InputResult] = []
        self.seeds = ""
        self.seconds = {"port": 0.0, "reference_wait": 0.0}
        self.suspect: Suspect | None = None
        self.ledger: TensorLedger | None = None

    @contextlib.contextmanager
    def unless_configured_otherwise(self) -> Iterator[None]:
        """Where the configurations differ, a port that cannot run or be compared is a finding, not a wrong use."""
        try:
            yield
        except InputError as error:
            if all(difference.declared for difference in self.config_differences):
                raise
            self.notes.append(f"The port, configured as it is, could not be compared to the end: {error}")

    def run(self, model: EfficientDet, progress: Progress | None) -> None:
        """All inputs; tensors are watched on the first."""
        import torch

        from verify.diff.inputs import check_size, make_inputs
        from verify.diff.layers import InputRun
        from verify.diff.tensors import TensorLedger

        options, self.port_config = self.options, model.config
        config = model.config.replace(image_size=self.image_size)
        self.notes += check_size(config)
        inputs = make_inputs(config, options.images, options.noise_seeds)
        self.seeds = " ".join(item.name.removeprefix("noise-") for item in inputs if item.kind == "noise")
        model = model.to(getattr(torch, options.dtype)).eval()
        self.ledger = ledger = TensorLedger(model.state_dict())
        official = {**self.official, "image_size": list(self.image_size)}
        foreign = self.reference.kind != "tensorflow"
        if foreign:
            self._watch_apart(model, official)
        self.reference.open(official, self._read, options.dtype, self.source.backbone_scope, options.truth)
        for item in inputs:
            watching = not (foreign or self.inputs)
            run = InputRun(item, model, self.reference, options, progress, ledger if watching else None)
            run.execute()
            self.inputs.append(run.result())
            _keep_worst(self.layers, run.differences, item.name)
            self.seconds["port"] += run.seconds - run.waited
            self.seconds["reference_wait"] += run.waited
            if run.suspect and (self.suspect is None or self._order(run.suspect) < self._order(self.suspect)):
                self.suspect = run.suspect

    def _watch_apart(self, model: EfficientDet, official: Mapping[str, Any]) -> None:
        """A foreign program does not tell what it uses: this project's reference does, on the smallest image."""
        from verify.diff.inputs import noise
        from verify.diff.layers import InputRun

        side = 2 ** model.config.max_level
        with ReferenceProcess() as own:
            own.open(official, self._read, self.options.dtype, self.source.backbone_scope)
            plain = dataclasses.replace(self.options, reference="tensorflow", tolerance=float("inf"))
            InputRun(noise(0, (side, side)), model, own, plain, None, self.ledger).execute()

    def _read(self, name: str) -> np.ndarray:
        return self.source.read(name, self.kind)

    def _order(self, suspect: Suspect) -> int:
        return list(self.layers).index(suspect.name)

    def result(self) -> DiffResult:
        """All of it together."""
        from verify.environment import environment

        options = self.options
        proof = self.ledger.proof(self._read, list(self.source.variables)) if self.ledger else None
        cause = self._cause([item.key for item in proof.differing if item.key] if proof else [])
        return DiffResult(
            variant=self.config.name, config=self.config.to_dict(), source=self.source.label, weights="",
            variables=self.kind, reference=options.reference, dtype=options.dtype, isolate=options.isolate,
            image_size=self.image_size, tolerance=None if options.truth else options.limit,
            layers=tuple(self.layers.values()), inputs=tuple(self.inputs),
            first_divergent_layer=self.suspect.name if self.suspect else None, cause=cause,
            environment={**environment(self.reference.versions), "seeds": self.seeds},
            seconds=self.seconds, config_differences=self.config_differences, tensors=proof,
            reference_config=self.official, notes=(*self.notes, *self._approximation()),
        )  # fmt: skip

    def _approximation(self) -> list[str]:
        """How far the weights are from a file whose numbers are no float32."""
        precision, layers = self.options.precision, self.layers.values()
        if precision in ("", "float32") or not layers:
            return []
        largest = max(layer.difference.max_rel for layer in layers)
        typical = max(layer.difference.rms_rel for layer in layers)
        return [
            f"The weights approximate the reference, a file of {precision} numbers: its outputs differ by up to "
            f"{largest:.2g} of their largest value ({typical:.2g} in the root mean square), up to "
            f"{self.options.limit:g} passes."
        ]

    def _cause(self, differing: list[str]) -> Cause | None:
        from verify.diff.causes import Investigation, find_cause

        if self.ledger is None:
            return None
        wrong = self.ledger.wrong_pairs(differing)
        if self.suspect is None and not wrong:
            return None
        pairs = self.ledger.pairs.get(self.suspect.name, []) if self.suspect else []
        return find_cause(
            Investigation(
                self.source, self.kind, self.reference, self.suspect, self.options.limit, pairs, wrong
            )
        )


def _values(source: Source, options: DiffOptions) -> tuple[Kind, str]:
    """Which values of the checkpoint the reference takes: its own decision, or the user's."""
    if options.variables != "auto":
        return source.meant(list(source.variables), options.variables)  # type: ignore[arg-type]
    files = [file.name for file in source.files]
    kind, why = official_values(source.raw_names, files, all_hparams(options.hparams))
    source.meant(list(source.variables), kind)  # refuses what is not all there
    return kind, why


def _keep_worst(layers: dict[str, LayerResult], found: Mapping[str, Difference], input_name: str) -> None:
    for name, difference in found.items():
        known = layers.get(name)
        if known is None or difference.excess > known.difference.excess:
            layers[name] = LayerResult(name, difference, input_name)


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

