"""Files for other runtimes that a release adds, each with its proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.errors import CheckFailedError, InputError
from effdet_model.nms_profiles import NmsProfile
from export.evidence import export_rule, export_versions, subject_sha256
from export.options import FORMATS, ExportOptions, check_options, proof_path, suppression
from export.proof import proved_inputs
from export.run import export
from release.evidence import EXPORT, Expected, Proof, read_proof
from release.expected import ReleasedWeights, common_of_file, versions
from release.options import ReleaseOptions
from release.verification import Subject
from verify.evidence.digest import plain
from verify.evidence.record import Complaint
from verify.reference.configuration.official import declared_hparams

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportedItem:
    """One exported file to release.

    Attributes:
        path: the file; its proof lies beside it. expected: what the proof's record must say.
    """

    path: Path
    expected: Expected

    @property
    def files(self) -> list[Path]:
        """All parts of it, the file first."""
        weights = self.path.with_suffix(".bin")
        return [self.path, weights] if self.path.suffix == ".xml" else [self.path]

    def proof(self, weights: ReleasedWeights) -> Proof:
        """Its proof, if it is of this very file and these weights.

        Raises:
            InputError: names what is not as it must be.
        """
        complaint = _complaint(self.path, weights)
        try:
            subject = subject_sha256(self.files)
        except OSError as error:
            raise complaint.told("file", "the exported file", error.strerror or "none") from error
        return read_proof(proof_path(self.path), EXPORT, {**self.expected, "subject_sha256": subject}, complaint)


def check_exports(options: ReleaseOptions, work: Path) -> None:
    """Refuse what cannot be exported before anything is done.

    Raises:
        InputError: see `export.options.check_options`.
    """
    for name in options.exports:
        check_options(_options(work / "weights.pth", work / "exported", name, options))


def exported(subject: Subject, name: str, say: Say, watch: Any) -> ExportedItem:
    """The file of a format in the work folder; an earlier one where its proof is what it would be now.

    Raises:
        CheckFailedError: the file is not what the weights are.
    """
    weights, variant = subject.weights, subject.weights.config.name
    chosen = _options(weights.path, subject.folder / variant, name, subject.options)
    chosen = dataclasses.replace(
        chosen, image_size=subject.options.image_size, checkpoint=subject.found.path, hparams=subject.found.declared,
        family=subject.found.origin.get("family"),
    )  # fmt: skip
    item = ExportedItem(chosen.output, _expected(weights, chosen))
    if proof_path(item.path).exists():
        try:
            item.proof(weights)
            say(f"{variant}: {name} exported before")
            return item
        except InputError as error:
            say(f"{variant}: {name} of an earlier run is not of this one ({error}); it is made anew")
    with watch(f"{variant}: {name}"):
        made = export(chosen)
    say(f"{variant}: {name}: {made.record['verdict']}")
    if not made.passed:
        raise CheckFailedError(
            f"{variant}: {name}: the exported file is not what the weights are, so nothing is released: "
            f"{made.record['verdict']} Its proof: {made.proof}."
        )
    item.proof(weights)
    return item


def _options(weights: Path, stem: Path, name: str, options: ReleaseOptions) -> ExportOptions:
    endings = FORMATS.get(name, ("",))
    return ExportOptions(weights, stem.with_name(stem.name + endings[0]), name, nms=options.export_nms, batch=None)


def _expected(weights: ReleasedWeights, options: ExportOptions) -> Expected:
    config = weights.config.replace(image_size=options.image_size or weights.config.image_size)
    chosen = suppression(config, options.nms)
    profile = chosen if isinstance(chosen, NmsProfile) else None  # TensorRT's node is judged by its levels
    inputs = [dataclasses.asdict(item) for item in proved_inputs(config, options.kind, options.batch)]
    return {
        **common_of_file(weights, options.image_size),
        "dtype": "float32",
        "rule": export_rule(profile),
        "tolerance": None,
        "versions": {**versions(), **export_versions(options.format)},
        "hparams": plain(declared_hparams(options.hparams)),
        "nms": plain(dataclasses.asdict(profile)) if profile else None,
        "inputs": inputs,
    }


def _complaint(path: Path, weights: ReleasedWeights) -> Complaint:
    command = f"python cli.py export --weights {weights.path} --checkpoint ... --output {path}"
    return Complaint(f"release of {weights.config.name}: {proof_path(path)}", command)
