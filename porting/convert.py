"""From a checkpoint to a PyTorch weight file, fully accounted for."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fit import listed
from mappings.committed import table_for
from mappings.layouts import LAYOUTS
from mappings.table import MappingTable, Row
from porting.accounting import Account, account
from porting.checkpoint.sources import Source, open_source
from porting.checkpoint.values import Choice, Kind
from porting.identity import check_replaceable, default_name
from porting.recognise.command import convert_command
from porting.recognise.files import recognise_source
from porting.weights.files import check_output, write_weights
from porting.weights.metadata import build_metadata

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with (tensors done, tensors in all)."""


@dataclass(frozen=True)
class Conversion:
    """A checkpoint as a state_dict, and how it came about.

    Attributes:
        state_dict: PyTorch key -> tensor, in the model's order.
        notes: what was inferred or assumed, in sentences.
        metadata: what goes with the weights.
    """

    config: EfficientDetConfig
    table: MappingTable
    account: Account
    state_dict: dict[str, Tensor]
    notes: tuple[str, ...]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A conversion that has been written.

    Attributes:
        path: the weight file. sha256: its SHA-256.
    """

    conversion: Conversion
    path: Path
    sha256: str


def convert(
    checkpoint: str | Path,
    output: str | Path | None = None,
    variant: str = "auto",
    *,
    variables: Choice = "auto",
    moving_average_decay: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    allow_nonfinite: bool = False,
    origin: Mapping[str, Any] | None = None,
    named: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Convert a checkpoint and write it to `output` (.pth or .safetensors), whole or not at all.

    Args:
        output: None: tf_efficientdet_VARIANT.pth in the current folder, with the family where the variant has several
            (tf_efficientdet_d0_coco.pth).
        variant: a variant's name, or "auto" to recognise it by its shapes and the names around it.
        variables: "auto" takes what the official code evaluates with (`porting.checkpoint.values`); "ema" and "raw"
            force.
        moving_average_decay: of --hparams; 0: the training kept no averages.
        overrides: config fields, e.g. parsed from --hparams.
        allow_nonfinite: accept NaN, Inf and negative variances.
        origin: where an official checkpoint came from: {"url", "family"}; goes into the metadata.
        named: further names of the checkpoint, e.g. the URL that it was loaded from.
        overwrite: replace an output that is not an earlier conversion of the same checkpoint.

    Raises:
        InputError: anything about the checkpoint or the output is not as it must be; nothing is written.
    """
    if output is not None:
        check_output(Path(output))
    threading.Thread(target=importlib.import_module, args=("torch",), daemon=True).start()  # while the source is read
    with open_source(checkpoint) as source:
        source.start_hashing()
        family = (origin or {}).get("family")

        def replaceable(config: EfficientDetConfig) -> None:
            path = Path(output or default_name(config.name, family))
            check_output(path)
            check_replaceable(path, config.name, source.sha256, family, overwrite)

        conversion = convert_source(
            source,
            variant,
            variables=variables,
            moving_average_decay=moving_average_decay,
            overrides=overrides,
            allow_nonfinite=allow_nonfinite,
            origin=origin,
            named=named,
            progress=progress,
            before=replaceable,
        )
    path = Path(output or default_name(conversion.config.name, family))
    digest = write_weights(path, conversion.state_dict, conversion.metadata)
    return Written(conversion, path, digest)


def convert_source(
    source: Source,
    variant: str = "auto",
    *,
    variables: Choice = "auto",
    moving_average_decay: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    allow_nonfinite: bool = False,
    origin: Mapping[str, Any] | None = None,
    named: Sequence[str] = (),
    progress: Progress | None = None,
    before: Callable[[EfficientDetConfig], None] | None = None,
) -> Conversion:
    """`convert` of an open source, without writing.

    Args:
        before: called with the config before any value is read; to refuse in time.
    """
    recognised = recognise_source(source, variant, overrides, named)
    config = recognised.settled([convert_command(source.path, *choice) for choice in recognised.choices])
    if before:
        before(config)
    table = table_for(config)
    accounted = account(source, table, variables, moving_average_decay)
    arrays = fill(source, table, accounted.kind, allow_nonfinite, progress)
    source.check_unread()
    notes = (*recognised.notes, *_about_values(source, accounted))
    metadata = build_metadata(config, source, accounted, notes, origin or {})
    import torch  # last: `convert` lets it load while everything above goes on

    state_dict = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return Conversion(config, table, accounted, state_dict, notes, metadata)


def _about_values(source: Source, accounted: Account) -> list[str]:
    """A note where the file has moving averages and they were not taken."""
    averages = sum(source.variables[name].has_ema for name in accounted.consumed)
    if accounted.kind == "ema" or not averages:
        return []
    return [f"took the raw values, not the moving averages ({averages} of {len(accounted.consumed)} variables have "
            f"one): {accounted.why}"]  # fmt: skip


def fill(
    source: Source,
    table: MappingTable,
    kind: Kind,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Every PyTorch tensor of a table as an array of its own, from the source's values.

    Raises:
        InputError: damaged data, or values that no trained model has (NaN, Inf, negative variances).
    """
    arrays: dict[str, np.ndarray] = {}
    bad: list[str] = []
    for done, row in enumerate(table.rows, 1):
        array = _filled(source, row, kind)
        if not allow_nonfinite:
            bad += _implausible(row, array)
        arrays[row.pytorch_key] = array
        if progress:
            progress(done, len(table.rows))
    if bad:
        raise InputError(
            f"{source.label}: expected finite values and variances >= 0, found {listed(sorted(bad))}; the training "
            "diverged or the file is damaged. Use --allow-nonfinite to convert it all the same."
        )
    return arrays


def _filled(source: Source, row: Row, kind: Kind) -> np.ndarray:
    arrays = [source.read(name, kind) for name in row.tensorflow_names]
    converted = LAYOUTS[row.kind].to_pytorch(arrays)
    dtype = np.int64 if row.kind == "counter" else np.float32
    array = np.array(converted, dtype=dtype, order="C", copy=True)
    if array.shape != row.pytorch_shape:
        raise AssertionError(f"{row.pytorch_key}: {array.shape} instead of {row.pytorch_shape}")
    return array


def _implausible(row: Row, array: np.ndarray) -> list[str]:
    found = []
    if not np.isfinite(array).all():
        found.append(f"{', '.join(row.tensorflow_names)} (NaN or Inf)")
    if row.pytorch_key.endswith(".running_var") and (array < 0).any():
        found.append(f"{', '.join(row.tensorflow_names)} (negative variance)")
    return found
