"""The record of a parity run: what it proves, of which files, with what."""

from __future__ import annotations

import dataclasses

from porting.files import file_sha256
from porting.version import TOOL
from verify.evidence.digest import changed_fields, configuration_sha256, plain
from verify.evidence.record import Evidence, EvidenceInput
from verify.parity.result import AGREEMENT_WANTED, LONE_SHARE, ParityResult
from verify.parity.rounding import MULTIPLE
from verify.parity.setup import Setup

RULE = (
    f"every stage, alone and from the file, within {MULTIPLE:g} times TensorFlow's own distance from its float64; at "
    f"most {LONE_SHARE:g} of the detections without a partner; agreement AP at least {AGREEMENT_WANTED:g}; no "
    "difference of configuration but what was declared"
)
"""What a passed run allows, in words."""
DTYPE = "float32"
"""Of the port in a parity run."""


def parity_evidence(setup: Setup, result: ParityResult) -> Evidence:
    """The record of a result."""
    source, environment = setup.dataset.source, result.environment
    hashes = result.image_hashes
    return Evidence(
        kind="parity", verdict=result.outcome, rule=RULE, tolerance=None, variant=result.variant,
        family=setup.reference_config.get("family"), weights_sha256=result.weights_sha256,
        configuration_sha256=configuration_sha256(setup.metadata, setup.model.config),
        overrides=changed_fields(setup.metadata, setup.model.config), checkpoint_sha256=result.checkpoint_sha256,
        variables=result.variables, image_size=result.image_size, dtype=DTYPE, reference="tensorflow",
        versions={
            **{name: str(environment[name]) for name in (TOOL, "torch", "timm", "numpy")},
            "tensorflow": str(environment["reference_tensorflow"]),
        },
        hparams=plain(setup.options.overrides), nms=plain(dataclasses.asdict(setup.profile)),
        inputs=tuple(
            EvidenceInput(image.file_name, "image", str(hashes.get(image.image_id))) for image in result.images
        ),
        annotations_sha256=file_sha256(source) if source else None,
    )  # fmt: skip
