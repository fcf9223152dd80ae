"""One input through both networks at once, compared layer by layer as the layers come; nothing is kept for long."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch.utils._python_dispatch import _disable_current_modes

from effdet_model.errors import InputError
from verify.diff.causes import Suspect
from verify.diff.comparison import compare, compare_with_truth
from verify.diff.inputs import DiffInput
from verify.diff.observed import Watch
from verify.diff.options import DiffOptions
from verify.diff.result import Difference, InputResult
from verify.diff.tensors import TensorLedger
from verify.reference.process import ReferenceLayer, ReferenceProcess

if TYPE_CHECKING:
    from torch import Tensor

    from effdet_model import EfficientDet

Progress = Callable[[str, str, Difference], None]
"""Called with input name, layer name and difference, layer by layer."""

_Answer = tuple[ReferenceLayer, np.ndarray | None]
"""A layer of the reference, and its float64 where that judges."""


class InputRun:
    """One input through both frameworks, compared as the layers come."""

    def __init__(
        self, item: DiffInput, model: EfficientDet, reference: ReferenceProcess, options: DiffOptions,
        progress: Progress | None, ledger: TensorLedger | None = None,
    ) -> None:
        self.item, self.model, self.options, self.progress = item, model, options, progress
        self.images = np.ascontiguousarray(item.array.transpose(0, 2, 3, 1))
        self.coming = reference.layers(self.images)
        self.everything = reference.kind == "tensorflow"
        self.early: dict[str, _Answer] = {}
        self.ledger = ledger
        self.watch = Watch(model) if ledger else None
        self.differences: dict[str, Difference] = {}
        self.suspect: Suspect | None = None
        self.waited = self.seconds = 0.0

    def execute(self) -> None:
        import torch

        started = time.perf_counter()
        images = torch.from_numpy(self.item.array).to(next(self.model.parameters()).dtype)
        with torch.inference_mode(), self.watch or contextlib.nullcontext():
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
        worst = max(self.differences, key=lambda name: self.differences[name].excess)
        return InputResult(
            name=self.item.name, kind=self.item.kind, sha256=self.item.sha256,
            max_abs=max(difference.max_abs for difference in self.differences.values()),
            max_rel=max(found.max_rel for found in self.differences.values()), worst_layer=worst,
            first_divergent_layer=self.suspect.name if self.suspect else None, file_sha256=self.item.file_sha256,
        )

    def _observe(self, name: str, out: Tensor) -> Tensor | None:
        import torch

        places = self.watch.take() if self.watch else []
        answer = self._reference_layer(name)
        if answer is None:
            return None
        layer, truth = answer
        port = out.permute(0, 2, 3, 1)
        with _disable_current_modes():
            if self.ledger:
                self.ledger.note(name, layer.variables, layer.uses, places)
            if truth is None:
                difference = compare(layer.output, port, self.options.limit)
            else:
                difference = compare_with_truth(truth, layer.output, port)
        self.differences[name] = difference
        if not difference.ok and self.suspect is None:
            shown = difference if truth is None else compare(layer.output, port, self.options.limit)
            self.suspect = Suspect(
                name, shown, layer.output, port.cpu().numpy().copy(), layer.variables, self.images
            )
        if self.progress:
            self.progress(self.item.name, name, difference)
        if not self.options.isolate:
            return None
        return torch.from_numpy(layer.output).permute(0, 3, 1, 2).contiguous()

    def _reference_layer(self, name: str) -> _Answer | None:
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
                self.early[layer.name] = (layer, next(self.coming).output if self.options.truth else None)
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
        if self.ledger:
            self.ledger.complete = False
        reason = " ".join(str(error).split())[:200]
        name = self.suspect.name
        note = "; ".join(filter(None, [self.differences[name].note, f"the port stopped after it: {reason}"]))
        self.differences[name] = dataclasses.replace(self.differences[name], note=note)
