"""The Markdown that goes with released weights: a model card each, and the index of the release.

The front matter is huggingface_hub's `ModelCardData`, so that the same files are valid on the Hugging Face Hub.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effdet_model.extras import needs
from porting.official.catalog import FAMILIES, CatalogEntry
from porting.version import TOOL, tool_version
from release.evidence import Proof
from verify.evaluation.metrics import METRIC_NAMES
from verify.evidence.digest import canonical
from verify.evidence.record import Evidence

with needs("release", "model cards"):
    import jinja2  # noqa: F401 - ModelCard.from_template renders with it
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

AUTOML_URL = "https://github.com/google/automl/tree/master/efficientdet"
LICENSE = "apache-2.0"
ATTRIBUTION = (
    "EfficientDet is by Mingxing Tan, Ruoming Pang and Quoc V. Le (Google Research, Brain Team); the architecture, the "
    f"training code and the released checkpoints are those of [google/automl]({AUTOML_URL}), Copyright Google "
    "Research, Apache License 2.0. The values of the tensors are unchanged; names and memory layout are PyTorch's."
)
_METRIC_LABELS = {
    "AP": "AP", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75", "APs": "AP small", "APm": "AP medium",
    "APl": "AP large", "ARmax1": "AR, 1 detection", "ARmax10": "AR, 10 detections", "ARmax100": "AR, 100 detections",
    "ARs": "AR small", "ARm": "AR medium", "ARl": "AR large",
}  # fmt: skip

_INPUT_LABELS = {"image": "picture file", "drawn": "drawn picture", "noise": "seeded noise"}


_PROGRAMS = ("savedmodel", "tflite")
"""Kinds of files that say more than variables, and from which not everything comes back."""


@dataclass(frozen=True)
class ReleasedFile:
    """One file of a release: its name in the folder, SHA-256 in hex, size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ReleasedModel:
    """Everything that a card and the index say of one model.

    Attributes:
        name: e.g. tf_efficientdet_d0. metadata: of the weight file. parameters: trainable values.
        files: by role: "pth", "metadata", "safetensors", "config", "preprocessing", "diff", "parity", "diff_page",
            "parity_page", and those of exported files.
        entry: the catalog's entry where the checkpoint is an official one. exports: proofs of exported files.
    """

    name: str
    metadata: Mapping[str, Any]
    parameters: int
    files: Mapping[str, ReleasedFile]
    diff: Proof
    parity: Proof
    entry: CatalogEntry | None
    license: str = LICENSE
    exports: tuple[Proof, ...] = ()

    @property
    def variant(self) -> str:
        """The variant's name, e.g. d0."""
        return str(self.metadata["variant"])

    @property
    def card(self) -> str:
        """The name of the card's file."""
        return f"{self.name}.md"


def model_card(model: ReleasedModel) -> str:
    """The card of one model: Markdown with YAML front matter."""
    source = model.metadata["source"]
    entry = model.entry
    config = model.metadata["config"]
    card = ModelCard.from_template(
        ModelCardData(
            **_common_card_data(model.license),
            model_name=model.name,
            eval_results=list(_eval_results(model)) or None,
            source_url=source.get("url"),
            source_sha256=source.get("sha256"),
            weights_sha256=model.files["pth"].sha256,
        ),
        template_str=_template("model_card.md.j2"),
        name=model.name,
        variant=model.variant,
        facts=[
            ("Parameters", f"{model.parameters:,}"),
            ("Image size (height x width)", "{} x {}".format(*config["image_size"])),
            ("Classes", config["num_classes"]),
            ("Anchor aspect ratios", config["aspect_ratios"]),
            ("Mean, deviation (RGB, 0..255)", f"{config['mean_rgb']}, {config['stddev_rgb']}"),
            ("Inputs scaled to [-1, 1]", "yes" if config.get("scale_range") else "no"),
        ],
        files=[file for file in model.files.values() if file.name.endswith((".pth", ".safetensors"))],
        weights=model.files["pth"].name,
        beside=model.files["metadata"].name,
        beside_sha256=model.files["metadata"].sha256,
        safetensors=model.files["safetensors"].name,
        entry_point=model.name,
        image_size=config["image_size"],
        source=list(_source_lines(model)),
        diff_verdict=model.diff.verdict,
        diff=[*_diff_lines(model.diff.data), *_record_lines(model.diff.record, config)],
        diff_file=model.files["diff"].name,
        diff_page=model.files["diff_page"].name,
        parity_verdict=model.parity.verdict,
        parity=[*_parity_lines(model.parity.data), *_record_lines(model.parity.record, config)],
        exports=[_export(model, proof) for proof in model.exports],
        stages=[_stage(stage) for stage in model.parity.data.get("stages") or []],
        metrics=list(_metric_lines(model.parity.data)),
        parity_file=model.files["parity"].name,
        parity_page=model.files["parity_page"].name,
        published=list(_published(entry)) if entry else [],
        published_source=entry.source if entry else "",
        published_note=entry.note if entry else "",
        nms_profile=entry.nms_profile if entry else "",
        attribution=_attribution(model),
    )
    return _tidy(str(card))


def release_index(models: Sequence[ReleasedModel]) -> str:
    """The index of a release: a table of all models, Markdown with YAML front matter."""
    card = ModelCard.from_template(
        ModelCardData(**_common_card_data(models[0].license)),
        template_str=_template("release_index.md.j2"),
        models=[_index_row(model) for model in models],
        tool=f"{TOOL} {tool_version()}",
        attribution=f"{_license_sentence(models[0].license)} {ATTRIBUTION}",
    )
    return _tidy(str(card))


def coco_ap(parity: Mapping[str, Any], framework: str = "pytorch") -> float | None:
    """AP (0 to 1) of one framework's detections in a parity report; None without annotations."""
    values = parity.get(framework)
    ap = values.get("AP") if isinstance(values, Mapping) else None
    return float(ap) if isinstance(ap, (int, float)) and ap >= 0 else None


def agreement_ap(parity: Mapping[str, Any]) -> float | None:
    """AP (0 to 1) of PyTorch's detections with TensorFlow's as ground truth."""
    value = parity.get("agreement_ap")
    return float(value) if isinstance(value, (int, float)) else None


def _common_card_data(license_name: str) -> dict[str, Any]:
    return {
        "license": license_name,
        "library_name": "pytorch",
        "pipeline_tag": "object-detection",
        "tags": ["efficientdet", "object-detection", "pytorch", "coco"],
    }


def _eval_results(model: ReleasedModel) -> Iterator[EvalResult]:
    """The AP that the parity run measured with this very file, for the front matter's model-index."""
    ap = coco_ap(model.parity.data)
    if ap is None:
        return
    images = str(model.parity.data.get("dataset") or "the images of the parity run")
    yield EvalResult(
        task_type="object-detection", dataset_type="coco", dataset_name=images, metric_type="mean_average_precision",
        metric_name="AP (IoU 0.50:0.95)", metric_value=round(100 * ap, 3),
    )


def _source_lines(model: ReleasedModel) -> Iterator[tuple[str, str]]:
    source = model.metadata["source"]
    url = source.get("url")
    yield "TensorFlow checkpoint", f"<{url}>" if url else f"`{source.get('file')}`"
    yield "SHA-256 of the checkpoint", f"`{source.get('sha256')}`"
    yield "Variables", "moving averages (EMA)" if source.get("variables") == "ema" else "raw, not averaged"
    yield "Format", str(source.get("dialect"))
    family = FAMILIES.get(str(source.get("family")))
    if family:
        yield "Family", f"{family.name}, published {family.date}. {family.reason}"
    tool = model.metadata.get("tool") or {}
    yield "Converted with", f"{tool.get('name')} {tool.get('version')}"
    if source.get("dialect") in _PROGRAMS:
        yield from (("Of the file", str(note)) for note in model.metadata.get("notes") or ())


def _diff_lines(diff: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Layers compared", str(len(diff.get("layers") or []))
    yield "Largest absolute difference", _shown(diff.get("max_abs"))
    yield "Largest relative difference", _shown(diff.get("max_rel"))
    yield "First divergent layer", str(diff.get("first_divergent_layer") or "none")
    tensors = diff.get("tensors")
    if isinstance(tensors, Mapping):
        yield "Values equal to the bit", f"{tensors.get('equal'):,} of {tensors.get('compared'):,}"


def _record_lines(record: Evidence, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the record of a proof says: with what it was made, and of which configuration and inputs."""
    size, own = ("{} x {}".format(*size) for size in (record.image_size, config["image_size"]))
    yield "Image size (height x width)", size if size == own else f"{size}; these weights' own is {own}"
    yield "Precision of PyTorch", record.dtype
    yield "Held to", _shown(record.rule)
    kinds = [item.kind for item in record.inputs]
    yield "Inputs", ", ".join(f"{kinds.count(kind)} x {_INPUT_LABELS[kind]}" for kind in dict.fromkeys(kinds))
    yield "Reference", f"{record.reference}, {'moving averages' if record.variables == 'ema' else 'raw values'}"
    yield "Versions", _shown(", ".join(f"{name} {version}" for name, version in sorted(record.versions.items())))
    if record.hparams:
        yield "Declared with --hparams", f"`{_shown(canonical(record.hparams))}`"
    yield "SHA-256 of the configuration", f"`{record.configuration_sha256}`"
    if record.annotations_sha256:
        yield "SHA-256 of the annotations", f"`{record.annotations_sha256}`"


def _parity_lines(parity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    images = parity.get("images")
    if isinstance(images, list):
        yield "Images", f"{len(images)} ({_shown(parity.get('dataset', 'own'))})"
    nms = parity.get("nms")
    if isinstance(nms, Mapping):
        yield "Suppression", f"`{nms.get('name')}`"
    for key, label, factor, unit in (
        ("agreement_ap", "Agreement AP (TensorFlow's detections as the truth)", 100, " %"),
        ("matched_share", "Boxes of both frameworks with a partner", 100, " %"),
        ("strong_matched_share", "The same for scores of at least 0.05", 100, " %"),
        ("ap_difference", "AP, PyTorch minus TensorFlow", 1, " points"),
    ):
        value = parity.get(key)
        if isinstance(value, (int, float)):
            yield label, f"{factor * value:.6g}{unit}"
    if "semantics" in parity:
        yield "Anchors and suppression of", _shown(parity["semantics"])
    published = parity.get("published")
    if isinstance(published, Mapping):
        judged = "within" if published.get("passed") else "beyond"
        verdict = f"{judged} {published.get('tolerance')} points" if published.get("judged") else "not judged"
        yield "AP measured / published (percent)", (
            f"{published.get('measured_AP'):.2f} / {published.get('published_AP')}: {verdict}"
        )


def _export(model: ReleasedModel, proof: Proof) -> dict[str, Any]:
    """A file for another runtime: its parts, what proved it, and what it gives."""
    name, data = str(proof.data["format"]), proof.data
    inside = proof.record.nms
    return {
        "files": [file for role, file in model.files.items() if role == name or role.startswith(f"{name}_")],
        "runtime": data["runtime"],
        "verdict": data["verdict"],
        "outputs": f"detections of {inside['name']}" if inside else "the raw levels",
        "inputs": data["metadata"]["input"],
    }


def _stage(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """Name, unit, largest difference alone, what is allowed, largest difference from the file on."""
    alone, whole = stage.get("alone") or {}, stage.get("from_file") or {}
    values = (alone.get("largest"), stage.get("allowed"), whole.get("largest"))
    return (str(stage.get("name")), str(stage.get("unit")), *(_shown(value) for value in values))


def _metric_lines(parity: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The 12 metrics of both frameworks in percent, where the images have annotations."""
    ours, theirs = parity.get("pytorch"), parity.get("tensorflow")
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return
    for name in METRIC_NAMES:
        pair = (theirs.get(name), ours.get(name))
        shown = (f"{100 * v:.2f}" if isinstance(v, (int, float)) and v >= 0 else "nothing to measure" for v in pair)
        yield (_METRIC_LABELS[name], *shown)


def _published(entry: CatalogEntry) -> Iterator[tuple[str, str]]:
    for field, label in (
        ("ap_val", "AP, val2017"), ("ap_testdev", "AP, test-dev2017"), ("ap50_testdev", "AP50, test-dev2017"),
        ("ap75_testdev", "AP75, test-dev2017"), ("aps_testdev", "AP small, test-dev2017"),
        ("apm_testdev", "AP medium, test-dev2017"), ("apl_testdev", "AP large, test-dev2017"),
    ):  # fmt: skip
        value = getattr(entry, field)
        if value is not None:
            yield label, str(value)


def _attribution(model: ReleasedModel) -> str:
    own = "" if model.entry else "These weights come from the checkpoint named above, none of the released ones. "
    return f"{_license_sentence(model.license)} {own}{ATTRIBUTION}"


def _license_sentence(name: str) -> str:
    return "License: [Apache License 2.0](LICENSE)." if name == LICENSE else f"License: {name}."


def _index_row(model: ReleasedModel) -> dict[str, Any]:
    source = model.metadata["source"]
    ap, agreement = coco_ap(model.parity.data), agreement_ap(model.parity.data)
    url = source.get("url")
    return {
        "name": model.name,
        "variant": model.variant,
        "family": source.get("family") or "own",
        "card": model.card,
        "ap": "" if ap is None else f"{100 * ap:.1f}",
        "agreement": "" if agreement is None else f"{100 * agreement:.2f}",
        "official_val": _percent(model.entry.ap_val if model.entry else None),
        "official_testdev": _percent(model.entry.ap_testdev if model.entry else None),
        "max_rel": _shown(model.diff.data.get("max_rel")),
        "source": f"[{source.get('file')}]({url})" if url else str(source.get("file")),
        **{role: file.name for role, file in model.files.items()},
    }


def _percent(value: float | None) -> str:
    return "N/A" if value is None else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _template(name: str) -> str:
    return importlib.resources.files("release").joinpath("templates", name).read_text(encoding="utf-8")


def _tidy(text: str) -> str:
    """One empty line where the template left several; one newline at the end."""
    lines: list[str] = []
    for line in text.rstrip().split("\n"):
        if line.strip() or (lines and lines[-1].strip()):
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"
