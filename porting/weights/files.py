"""Writing weight files: whole or not at all, read back and compared bit by bit before they appear."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet_model.errors import InputError
from effdet_model.fit import listed, same_bits
from effdet_model.weights import METADATA_KEY, WEIGHT_SUFFIXES, metadata_path, read_metadata, read_tensors
from porting.files import atomic_write, file_sha256

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1


def write_weights(path: Path, state_dict: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """Write a .pth (metadata beside it as .json) or .safetensors (metadata in its header).

    The same tensors and metadata give the same bytes. Before the file gets its name it is read back and every
    tensor compared bit by bit.

    Returns:
        The SHA-256 of the weight file, which the .json beside a .pth also has as `weights_sha256`.

    Raises:
        InputError: an unknown suffix, an output that cannot be written, or one that would be overwritten
            although it is not this project's.
    """
    check_output(path)
    if path.suffix == ".safetensors":
        with atomic_write(path) as temporary:
            return _written(temporary, state_dict, metadata, path.suffix)
    with contextlib.ExitStack() as stack:
        weights = stack.enter_context(atomic_write(path))
        beside = stack.enter_context(atomic_write(metadata_path(path)))
        digest = _written(weights, state_dict, metadata, path.suffix)
        text = json.dumps({**metadata, "weights_sha256": digest}, indent=2, sort_keys=True)
        beside.write_text(text + "\n", encoding="utf-8")
        return digest


def check_output(path: Path) -> None:
    """Refuse an output before any work is done.

    Raises:
        InputError: an unknown suffix, a folder that is missing or read-only, or a .json beside the .pth that is
            not this project's metadata, or that of another weight file.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise InputError(f"output {path}: expected a name that ends in {' or '.join(WEIGHT_SUFFIXES)}.")
    with contextlib.suppress(_Probe), atomic_write(path):
        raise _Probe
    beside = metadata_path(path)
    if path.suffix != ".safetensors" and beside.exists():
        try:
            ours = "format_version" in json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, RecursionError):
            ours = False
        if not ours:
            raise InputError(
                f"output {path}: its metadata would go to {beside}, which exists and is not metadata of this "
                "project; name another output or move that file."
            )
        _keep_metadata_of_twin(path, beside)


def _keep_metadata_of_twin(path: Path, beside: Path) -> None:
    """d0.pt and d0.pth share d0.json: writing one must not take the metadata away from the other."""
    for suffix in set(WEIGHT_SUFFIXES) - {".safetensors", path.suffix}:
        twin = path.with_suffix(suffix)
        if twin.is_file() and (read_metadata(twin) or {}).get("weights_sha256") == file_sha256(twin):
            raise InputError(
                f"output {path}: its metadata would go to {beside.name}, which belongs to {twin.name}; name another "
                "output."
            )


class _Probe(Exception):
    """Leaves `atomic_write` without writing."""


def _written(temporary: Path, state_dict: dict[str, Tensor], metadata: dict[str, Any], suffix: str) -> str:
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        # One key alone: safetensors writes several in a random order, and files would not be reproducible.
        save_file(state_dict, temporary, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    else:
        import torch

        with open(temporary, "wb") as file:
            torch.save(state_dict, file)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        digest = pool.submit(file_sha256, temporary)
        _compare(temporary, state_dict, suffix)
        return digest.result()


def _compare(temporary: Path, state_dict: dict[str, Tensor], suffix: str) -> None:
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        again = load_file(temporary)
    else:
        again = read_tensors(temporary, mapped=True)
    different = sorted(
        set(state_dict) ^ set(again)
        | {key for key in set(state_dict) & set(again) if not same_bits(state_dict[key], again[key])}
    )
    if different:
        raise InputError(
            f"{temporary}: expected what was written, read back {len(different)} different tensors "
            f"({listed(different, 5)}); the disk is failing or full, nothing was kept."
        )
