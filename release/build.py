"""A folder to upload: weights under their hash, what they are, and the proof that they are TensorFlow's.

Nothing is released on trust: each model needs a passed diff and a passed parity run of the very weight file.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError
from effdet_model.factory import create_model
from effdet_model.weights import metadata_path, read_state_dict
from export.evidence import subject_sha256
from porting.identity import weight_name
from porting.official.catalog import CatalogEntry, catalog
from porting.version import TOOL, tool_version
from porting.weights.files import file_sha256, write_weights
from release.evidence import DIFF, EXPORT, PARITY, Expected, Proof, read_proof
from release.expected import ReleasedWeights, complaint_of, expected_of_file, released_weights
from release.exports import ExportedItem
from release.model_card import (
    LICENSE,
    ReleasedFile,
    ReleasedModel,
    agreement_ap,
    coco_ap,
    model_card,
    release_index,
)
from verify.evidence.digest import EVIDENCE
from verify.evidence.record import Complaint, Evidence

SUMS, INDEX, README, LICENSE_FILE = "SHA256SUMS", "index.json", "README.md", "LICENSE"
PROOF = ".proof.json"
FORMAT_VERSION = 1
_NOT_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ReleaseItem:
    """One model to release.

    Attributes:
        weights: .pth with its .json, or .safetensors. diff, parity: diff.json and parity.json, their pages (.html)
            beside them.
        image_size: (height, width) at which it was proved; the weights' own by default.
        expected: kind of proof -> what else its record must say, see `release.expected`.
        exports: files for other runtimes, their proofs beside them.
    """

    weights: Path
    diff: Path
    parity: Path
    image_size: tuple[int, int] | None = None
    expected: Mapping[str, Expected] = field(default_factory=dict)
    exports: tuple[ExportedItem, ...] = ()


@dataclass(frozen=True)
class Release:
    """A release that was written or checked: its folder, and all files but SHA256SUMS with their hashes."""

    folder: Path
    files: tuple[ReleasedFile, ...]


@dataclass(frozen=True)
class _Verified:
    weights: ReleasedWeights
    name: str
    diff: Proof
    parity: Proof
    exports: tuple[tuple[ExportedItem, Proof], ...] = ()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Of the weight file, without its hash."""
        return self.weights.metadata


def make_release(items: Sequence[ReleaseItem], output: str | Path, *, license_name: str = LICENSE) -> Release:
    """Write a release folder, whole or not at all; the same input gives the same bytes.

    Per model: NAME-<8 of sha256>.pth with its .json, NAME-<8 of sha256>.safetensors, NAME.config.json,
    NAME.preprocessing.json, NAME.diff.json, NAME.parity.json, the pages of both (.html), the card NAME.md, and of each
    exported file NAME-<8 of its hash>.SUFFIX and NAME.FORMAT.proof.json. For all: README.md, index.json, LICENSE and
    SHA256SUMS. An earlier release in `output` is replaced.

    Raises:
        InputError: a proof is missing, failed or edited, or its record is not of this file, its configuration, image
            size, family, checkpoint, precision, reference or tool version; the output is in use. Nothing is written.
    """
    output = Path(output)
    verified = [_verify(item) for item in items]
    _check_names(verified)
    check_output(output)
    staging = output.absolute().with_name(f".{output.name}.{secrets.token_hex(8)}.tmp")
    staging.mkdir()
    try:
        models = [_write_model(model, staging, license_name) for model in verified]
        _write_common(models, staging)
        release = check_release(staging)
        _put_in_place(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Release(output, release.files)


def check_release(folder: str | Path) -> Release:
    """Check a release folder: SHA256SUMS against every file, hashes in names, records and pages of the proofs against
    each other and the weights, and links of all Markdown files.

    Raises:
        InputError: something is missing, surplus, changed, or linked but absent.
    """
    folder = Path(folder)
    sums = folder / SUMS
    if not sums.is_file():
        raise InputError(f"release {folder}: expected {SUMS} in it, found none; make it with `python cli.py release`.")
    listed = {line[66:]: line[:64] for line in sums.read_text().splitlines()}
    present = {path.name for path in folder.iterdir()} - {SUMS}
    if present != set(listed):
        raise InputError(
            f"release {folder}: expected exactly the files of {SUMS}, found missing: "
            f"{sorted(set(listed) - present)}, surplus: {sorted(present - set(listed))}; make the release again."
        )
    files = []
    for name, expected in sorted(listed.items()):
        found = file_sha256(folder / name)
        in_name = re.fullmatch(r".*-([0-9a-f]{8})\.(pth|safetensors)", name)
        if found != expected or (in_name and not found.startswith(in_name[1])):
            raise InputError(
                f"release {folder}: {name}: expected SHA-256 {expected}, found {found}; make the release again."
            )
        files.append(ReleasedFile(name, found, (folder / name).stat().st_size))
    for name in sorted(present):
        if name.endswith(".md"):
            _check_links(folder / name, present)
        for kind in (DIFF, PARITY):
            if name.endswith(f".{kind}.json"):
                _check_proof(folder / name, kind, {file.sha256 for file in files})
        if name.endswith(PROOF):
            record = _check_proof(folder / name, EXPORT, {file.sha256 for file in files})
            _check_subject(folder / name, str(record.subject_sha256), present)
    return Release(folder, tuple(files))


def _check_subject(path: Path, subject: str, present: set[str]) -> None:
    """The file that a proof is of is the one of its name."""
    start = f"{path.name.removesuffix(PROOF).rpartition('.')[0]}-{subject[:8]}"
    parts = [path.with_name(name) for name in sorted(present) if Path(name).stem == start]
    found = [part for part in parts if part.suffix not in (".pth", ".json", ".safetensors")]
    if not found or subject_sha256(found) != subject:
        raise InputError(
            f"release {path.parent}: {path.name}: expected the exported file that it is the proof of, SHA-256 "
            f"{subject}, found {', '.join(part.name for part in found) or 'none'}; make the release again."
        )


def _check_proof(path: Path, kind: str, hashes: set[str]) -> Evidence:
    complaint = Complaint(f"release {path.parent}: {path.name}", "python cli.py release ...")
    record = read_proof(path, kind, {"verdict": "passed"}, complaint).record
    if record.weights_sha256 not in hashes:
        raise complaint.error("evidence.weights_sha256", "that of a weight file of this release", record.weights_sha256)
    return record


def _verify(item: ReleaseItem) -> _Verified:
    weights = released_weights(item.weights)
    of_file = expected_of_file(weights, item.image_size)
    proofs = {}
    for kind, path in ((DIFF, item.diff), (PARITY, item.parity)):
        complaint = complaint_of(kind, path, weights, item.image_size)
        proofs[kind] = read_proof(path, kind, {**of_file[kind], **item.expected.get(kind, {})}, complaint)
    name = weight_name(weights.config.name, weights.source.get("family"))
    exports = tuple((exported, exported.proof(weights)) for exported in item.exports)
    return _Verified(weights, name, proofs[DIFF], proofs[PARITY], exports)


def _check_names(verified: Sequence[_Verified]) -> None:
    if not verified:
        raise InputError("release: expected at least one model, found none; name a variant or a folder.")
    names = [model.name for model in verified]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"release: expected each variant once, found {', '.join(twice)} several times; make one release per family."
        )


def _write_model(model: _Verified, folder: Path, license_name: str) -> ReleasedModel:
    path = model.weights.path
    loaded = read_state_dict(path)
    order = create_model(weights=path).state_dict()  # strict: refuses what does not fit
    state_dict = {key: loaded[key] for key in order}
    files = {
        **_write_weight_files(model, state_dict, folder),
        "config": _write_json(folder / f"{model.name}.config.json", model.weights.config.to_dict()),
        "preprocessing": _write_json(folder / f"{model.name}.preprocessing.json", _preprocessing(model.metadata)),
        "diff": _write_json(folder / f"{model.name}.diff.json", model.diff.data),
        "parity": _write_json(folder / f"{model.name}.parity.json", model.parity.data),
        "diff_page": _copy(model.diff.page, folder / f"{model.name}.diff.html"),
        "parity_page": _copy(model.parity.page, folder / f"{model.name}.parity.html"),
        **_write_exports(model, folder),
    }
    parameters = sum(
        tensor.numel() for key, tensor in state_dict.items() if not key.endswith(_NOT_PARAMETERS)
    )
    return ReleasedModel(
        model.name, model.metadata, parameters, files, model.diff, model.parity, _entry(model.metadata), license_name,
        tuple(proof for _, proof in model.exports),
    )


def _write_weight_files(model: _Verified, state_dict: dict[str, Any], folder: Path) -> dict[str, ReleasedFile]:
    """Both formats under their hashes. The verified file itself is copied; the other is made from its tensors."""
    files = {}
    for suffix in (".pth", ".safetensors"):
        plain = folder / f"{model.name}{suffix}"
        if model.weights.path.suffix == suffix:
            shutil.copyfile(model.weights.path, plain)
            digest = model.weights.sha256
        else:
            digest = write_weights(plain, state_dict, dict(model.metadata))
        named = plain.with_name(f"{model.name}-{digest[:8]}{suffix}")
        plain.rename(named)
        files[suffix[1:]] = _described(named)
        if suffix == ".pth":
            metadata_path(plain).unlink(missing_ok=True)
            content = {**model.metadata, "weights_sha256": digest}
            files["metadata"] = _write_json(metadata_path(named), content)
    return files


def _write_exports(model: _Verified, folder: Path) -> dict[str, ReleasedFile]:
    """Files for other runtimes under their hash, and their proofs."""
    files = {}
    for item, proof in model.exports:
        format_name = str(proof.report.data["format"])
        named = f"{model.name}-{str(proof.record.subject_sha256)[:8]}"
        for number, path in enumerate(item.files):
            role = f"{format_name}_{path.suffix[1:]}" if number else format_name
            files[role] = _copy(path, folder / f"{named}{path.suffix}")
        files[f"{format_name}_proof"] = _write_json(folder / f"{model.name}.{format_name}{PROOF}", proof.data)
    return files


def _write_common(models: Sequence[ReleasedModel], folder: Path) -> None:
    for model in models:
        (folder / model.card).write_text(model_card(model), encoding="utf-8")
    (folder / README).write_text(release_index(models), encoding="utf-8")
    if models[0].license == LICENSE:
        text = importlib.resources.files("release").joinpath("templates", "LICENSE-Apache-2.0.txt").read_bytes()
        (folder / LICENSE_FILE).write_bytes(text)
    _write_json(
        folder / INDEX,
        {
            "format_version": FORMAT_VERSION,
            "tool": {"name": TOOL, "version": tool_version()},
            "models": [_index_entry(model) for model in models],
        },
    )
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines))


def _index_entry(model: ReleasedModel) -> dict[str, Any]:
    diff, parity = model.diff.data, model.parity.data
    return {
        "name": model.name,
        "variant": model.variant,
        "parameters": model.parameters,
        "card": model.card,
        "files": {role: asdict(file) for role, file in model.files.items()},
        "source": model.metadata["source"],
        "published": {"ap_val": model.entry.ap_val, "ap_testdev": model.entry.ap_testdev} if model.entry else None,
        "diff": {key: diff.get(key) for key in ("passed", "max_abs", "max_rel", "first_divergent_layer", "dtype")},
        "parity": {"passed": parity.get("passed"), "AP": coco_ap(parity), "agreement_AP": agreement_ap(parity)},
        "evidence": {
            DIFF: diff[EVIDENCE], PARITY: parity[EVIDENCE],
            **{str(proof.data["format"]): proof.data[EVIDENCE] for proof in model.exports},
        },
    }


def _preprocessing(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Everything to do before and after the network, as the metadata has it."""
    parts = ("preprocessing", "anchors", "nms", "classes")
    return {"variant": metadata["variant"], **{key: metadata[key] for key in parts if key in metadata}}


def _entry(metadata: Mapping[str, Any]) -> CatalogEntry | None:
    url = metadata["source"].get("url")
    return next((entry for entry in catalog() if url and url in (entry.ckpt_url, entry.h5_url)), None)


def _write_json(path: Path, content: Any) -> ReleasedFile:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return _described(path)


def _copy(source: Path, target: Path) -> ReleasedFile:
    shutil.copyfile(source, target)
    return _described(target)


def _described(path: Path) -> ReleasedFile:
    return ReleasedFile(path.name, file_sha256(path), path.stat().st_size)


def _check_links(path: Path, present: set[str]) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith(("https://", "http://")) and target not in present:
            raise InputError(f"release: {path.name} links to {target}, which is not in it; make the release again.")


def check_output(output: Path) -> None:
    """Only what is absent, empty, or an earlier release with nothing else in it may be replaced.

    Raises:
        InputError: something else is there, or the folder it belongs into is missing.
    """
    if not output.absolute().parent.is_dir():
        raise InputError(f"output {output}: expected its parent folder to exist, found none; create it.")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        listed = {line.split("  ", 1)[1] for line in (output / SUMS).read_text().splitlines()} | {SUMS}
        surplus = {path.name for path in output.iterdir()} - listed
    except (OSError, IndexError, UnicodeDecodeError):
        surplus = {output.name if output.is_file() else "other files"}
    if surplus:
        raise InputError(
            f"output {output}: expected a new or empty folder, or an earlier release, found "
            f"{', '.join(sorted(surplus))}; name another output."
        )


def _put_in_place(staging: Path, output: Path) -> None:
    old = staging.with_name(staging.name + ".old")
    if output.exists():
        output.rename(old)
    try:
        staging.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
