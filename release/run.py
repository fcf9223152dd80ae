"""From variants to a release: convert, diff, parity, then the folder; what is done already is not done again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from effdet_model.errors import CheckFailedError, InputError
from effdet_model.variants import OFFICIAL_VARIANTS, canonical_variant
from porting.convert import convert
from porting.official.cache import cache_state, public_url
from porting.official.catalog import find
from porting.official.download import offered
from porting.official.http import is_http
from porting.official.obtain import obtain
from release.build import Release, ReleaseItem, check_output, make_release
from release.evidence import Expected, read_proof
from release.expected import complaint_of, expected_of_file, released_weights
from release.exports import check_exports, exported
from release.options import ReleaseOptions
from release.verification import DetectionParity, LayerDiff, Report, Subject, Verification
from verify.evidence.reading import read_report
from verify.evidence.record import Complaint

__all__ = ["ReleaseOptions", "released_variants", "run_release"]

Say = Callable[[str], None]


class Watch(Protocol):
    """Shows how far a step is: entered with its label and unit, it gives a callback for (done, in all)."""

    def __call__(self, label: str, unit: Literal["", "images", "bytes"] = "") -> AbstractContextManager[Report]: ...


@contextlib.contextmanager
def unwatched(label: str, unit: str = "") -> Any:
    """Shows nothing."""
    yield lambda done, total: None


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
    verifications: Sequence[Verification] | None = None,
    say: Say = lambda text: None,
    watch: Watch = unwatched,
) -> Release:
    """Convert, verify and release variants.

    Weights, reports and their pages are kept in `work`/VARIANT. A proof is used again where its record says what a run
    would say now, to the byte: files, configuration, inputs, versions and all else; so an interrupted run continues.

    Args:
        verifications: how to compare; `LayerDiff` and `DetectionParity` by default.
        say: called with each step done. watch: shows how far a step is.

    Raises:
        CheckFailedError: a verification failed, or could not tell; no release is written then, and the report and its
            page stay in `work`/VARIANT.
        InputError: a checkpoint is missing or damaged, or something else is not as it must be.
    """
    options = options or ReleaseOptions()
    verifications = verifications or (LayerDiff(), DetectionParity())
    _check_before(Path(output), Path(work), options)
    items = []
    for variant in variants:
        subject = _converted(variant, Path(work) / variant, options, say, watch)
        expected = {proof.kind: _proved(proof, subject, say, watch) for proof in verifications}
        reports = {kind: subject.folder / f"{kind}.json" for kind in ("diff", "parity")}
        more = tuple(exported(subject, name, say, watch) for name in options.exports)
        items.append(
            ReleaseItem(subject.weights.path, **reports, image_size=options.image_size, expected=expected, exports=more)
        )
    return make_release(items, output, license_name=options.license_name)


def _check_before(output: Path, work: Path, options: ReleaseOptions) -> None:
    """Everything that can be refused before the first long step."""
    from verify.evaluation.metrics import check_evaluator
    from verify.report import check_report

    check_output(output)
    check_evaluator()
    check_report(work)
    check_exports(options, work)
    options.dataset()


def _converted(variant: str, folder: Path, options: ReleaseOptions, say: Say, watch: Watch) -> Subject:
    """The weight file of a variant in its work folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with watch(f"{variant}: downloading", "bytes") as report:
        found = obtain(
            variant, options.checkpoint, family=options.family, hparams=options.hparams, mirror=options.mirror,
            offline=options.offline, progress=report,
        )  # fmt: skip
    for note in found.notes:
        say(f"{variant}: {note}")
    path = folder / f"{variant}.pth"
    with watch(f"{variant}: converting") as report:
        convert(
            found.path, path, found.variant, overrides=found.overrides, origin=found.origin, named=found.named,
            moving_average_decay=found.moving_average_decay, overwrite=True, progress=report,
        )  # fmt: skip
    say(f"{variant}: converted")
    return Subject(found, released_weights(path), options, folder)


def _proved(proof: Verification, subject: Subject, say: Say, watch: Watch) -> Expected:
    """Run a proof, unless an earlier one is this very one; what its record must say.

    Raises:
        CheckFailedError: it did not pass.
    """
    variant, size = subject.weights.config.name, subject.options.image_size
    path = subject.folder / f"{proof.kind}.json"
    complaint = complaint_of(proof.kind, path, subject.weights, size)
    of_file = expected_of_file(subject.weights, size)[proof.kind]
    expected = {**of_file, **proof.expected(subject, _inputs(path, proof.kind, complaint))}
    if path.exists():
        try:
            read_proof(path, proof.kind, expected, complaint)
            say(f"{variant}: {proof.kind} done before")
            return expected
        except InputError as error:
            reason = str(error).removeprefix(f"{complaint.where}: ").removesuffix(f"; run `{complaint.again}`.")
            say(f"{variant}: {proof.kind} of an earlier run is not of this one ({reason}); it is made anew")
    with watch(f"{variant}: {proof.kind}") as report:
        ended = proof.run(subject, report)
    say(f"{variant}: {proof.kind}: {ended.verdict}")
    if ended.outcome != "passed":
        word = "failed" if ended.outcome == "failed" else "could not tell"
        raise CheckFailedError(
            f"{variant}: {proof.kind} {word}, so nothing is released: {ended.verdict} Its page: "
            f"{path.with_suffix('.html')}, its data: {path}."
        )
    expected = {**of_file, **proof.expected(subject, _inputs(path, proof.kind, complaint))}
    read_proof(path, proof.kind, expected, complaint)
    return expected


def _inputs(path: Path, kind: str, complaint: Complaint) -> int:
    """How many inputs a report on disk had; 0 where there is none that can be read."""
    try:
        return len(read_report(path, kind, complaint).record.inputs)
    except InputError:
        return 0


def _available(variant: str, options: ReleaseOptions) -> bool:
    """Whether the family has the variant, and the mirror, where one is named, has its checkpoint."""
    try:
        entry = find(variant, options.family)
    except InputError:
        return False
    if options.mirror is None or cache_state(entry.url).kind == "cached":
        return True
    return False if options.offline and is_http(options.mirror) else offered(entry, options.mirror)
