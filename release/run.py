"""From variants to a release: convert, diff, parity, then the folder; what is done already is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from effdet_model.errors import CheckFailedError, InputError
from effdet_model.variants import OFFICIAL_VARIANTS, canonical_variant
from porting.convert import convert
from porting.files import atomic_write
from porting.official.cache import cache_state, public_url
from porting.official.catalog import find
from porting.official.download import offered
from porting.official.http import Progress, is_http
from porting.official.obtain import Obtained, obtain
from porting.weights.files import file_sha256
from release.build import Release, ReleaseItem, make_release
from release.evidence import DIFF, PARITY, read_evidence
from release.model_card import LICENSE

Say = Callable[[str], None]


@dataclass(frozen=True)
class ReleaseOptions:
    """How to make and prove a release.

    Attributes:
        checkpoint: a user's own checkpoint, for one variant; None: the official ones.
        family, mirror, offline: see `porting.official.obtain.obtain`.
        image_size: (height, width) of diff and parity; the variant's own by default.
        coco, images, annotations: for parity, see `verify.parity.run.ParityOptions`; none of them:
            `drawn_images` pictures of shapes, drawn for this.
        dtype: precision of the diff; "float64" is the proof.
    """

    checkpoint: str | None = None
    family: str | None = None
    mirror: str | None = None
    offline: bool = False
    image_size: tuple[int, int] | None = None
    coco: Path | None = None
    images: Path | None = None
    annotations: Path | None = None
    drawn_images: int = 8
    dtype: str = "float64"
    license_name: str = LICENSE


class Report(Protocol):
    """What a verification gives: its verdict, and a JSON file."""

    @property
    def passed(self) -> bool: ...
    @property
    def verdict(self) -> str: ...
    def write_json(self, path: Path) -> None: ...


Verification = Callable[[Obtained, Path, ReleaseOptions], Report]
"""Called with the checkpoint, the weight file and the options."""


def released_variants(names: Sequence[str], every: bool, options: ReleaseOptions) -> list[str]:
    """The variants that a command line means.

    `every` is all official variants; with a mirror those whose checkpoint it, or the cache, has.

    Raises:
        InputError: none, both, an unknown one, or one checkpoint for several variants.
    """
    if every == bool(names):
        raise InputError("release: expected --variant NAME (once or more) or --all, found neither or both.")
    chosen = list(dict.fromkeys(map(canonical_variant, names)))
    if every:
        chosen = [variant for variant in OFFICIAL_VARIANTS if _available(variant, options)]
    if options.checkpoint is not None and len(chosen) != 1:
        raise InputError(
            f"release: expected one variant with --checkpoint, found {len(chosen)}; leave --checkpoint out to take the "
            "official ones."
        )
    if not chosen:
        raise InputError(
            f"release: expected checkpoints in the mirror {public_url(options.mirror or '')}, found none; they must "
            "lie there as in the official place, e.g. coco2/efficientdet-d0.tar.gz."
        )
    return chosen


def run_release(
    variants: Sequence[str],
    output: str | Path,
    work: str | Path,
    options: ReleaseOptions | None = None,
    *,
    diff: Verification | None = None,
    parity: Verification | None = None,
    say: Say = lambda text: None,
    progress: Progress | None = None,
) -> Release:
    """Convert, verify and release variants.

    Weights and reports are kept in `work`/VARIANT. A report is used again where it passed, belongs to the same
    checkpoint and weights, and was made with the same options; so an interrupted run continues.

    Args:
        diff, parity: how to compare; `layer_diff` and `detection_parity` by default.
        say: called with each step done. progress: of downloads, called with (bytes there, bytes in all or None).

    Raises:
        CheckFailedError: a verification failed; no release is written then.
        InputError: a checkpoint is missing or damaged.
    """
    options = options or ReleaseOptions()
    steps = ((DIFF, diff or layer_diff), (PARITY, parity or detection_parity))
    items = []
    for variant in variants:
        folder = Path(work) / variant
        folder.mkdir(parents=True, exist_ok=True)
        found = obtain(
            variant, options.checkpoint, family=options.family, mirror=options.mirror, offline=options.offline,
            progress=progress,
        )  # fmt: skip
        weights = folder / f"{variant}.pth"
        written = convert(
            found.path, weights, found.variant, overrides=found.overrides, origin=found.origin, named=found.named,
            overwrite=True,
        )  # fmt: skip
        checkpoint_sha256 = written.conversion.metadata["source"]["sha256"]
        say(f"{variant}: converted")
        for kind, verification in steps:
            report = folder / f"{kind}.json"
            if _reusable(report, kind, variant, weights, checkpoint_sha256, options):
                say(f"{variant}: {kind} done before")
                continue
            result = verification(found, weights, options)
            result.write_json(report)
            _write_settings(report, options)
            say(f"{variant}: {kind}: {result.verdict}")
            if not result.passed:
                raise CheckFailedError(
                    f"{variant}: {kind} failed, so nothing is released: {result.verdict} See {report}; run "
                    f"`cli.py {kind} --report DIR` for the whole report."
                )
        items.append(ReleaseItem(weights, folder / "diff.json", folder / "parity.json"))
    return make_release(items, output, license_name=options.license_name)


def layer_diff(found: Obtained, weights: Path, options: ReleaseOptions) -> Report:
    """The layer-by-layer diff of one model."""
    from verify.diff.run import DiffOptions, run_diff

    settings = DiffOptions(
        image_size=options.image_size, dtype=options.dtype, overrides=found.overrides,
        family=found.origin.get("family"), hparams=found.hparams,
    )  # fmt: skip
    return run_diff(found.path, weights, found.variant, settings)


def detection_parity(found: Obtained, weights: Path, options: ReleaseOptions) -> Report:
    """Both frameworks' detections of one model; official weights by the rules of their day."""
    from demo.drawn_images import draw_dataset
    from verify.parity.run import ParityOptions, parity

    images = options.images
    if images is None and options.coco is None:
        images = weights.parent / "images"
        draw_dataset(weights.parent, options.drawn_images)
    settings = ParityOptions(
        found.path, weights, found.variant, images=images, annotations=options.annotations, coco=options.coco,
        image_size=options.image_size, as_published=bool(found.origin), pictures=0,
        family=found.origin.get("family"), overrides=found.hparams,
    )  # fmt: skip
    return parity(settings)


def _available(variant: str, options: ReleaseOptions) -> bool:
    """Whether the family has the variant, and the mirror, where one is named, has its checkpoint."""
    try:
        entry = find(variant, options.family)
    except InputError:
        return False
    if options.mirror is None or cache_state(entry.url).kind == "cached":
        return True
    return False if options.offline and is_http(options.mirror) else offered(entry, options.mirror)


def _reusable(
    report: Path, kind: str, variant: str, weights: Path, checkpoint_sha256: str, options: ReleaseOptions
) -> bool:
    try:
        read_evidence(report, kind, variant, file_sha256(weights), checkpoint_sha256)
        return json.loads(_settings_path(report).read_text(encoding="utf-8")) == _settings(options)
    except (InputError, OSError, ValueError):
        return False


def _write_settings(report: Path, options: ReleaseOptions) -> None:
    with atomic_write(_settings_path(report)) as temporary:
        temporary.write_text(json.dumps(_settings(options), indent=2) + "\n", encoding="utf-8")


def _settings_path(report: Path) -> Path:
    return report.with_suffix(".settings.json")


def _settings(options: ReleaseOptions) -> dict[str, object]:
    """What a report depends on besides the two files."""
    kept = ("image_size", "coco", "images", "annotations", "drawn_images", "dtype")
    values = {key: value for key, value in asdict(options).items() if key in kept}
    return json.loads(json.dumps(values, default=str))
