"""How to make and prove a release."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from release.model_card import LICENSE

if TYPE_CHECKING:
    from verify.evaluation.coco import CocoDataset


@dataclass(frozen=True)
class ReleaseOptions:
    """What the user chose.

    Attributes:
        checkpoint: a user's own checkpoint, for one variant; None: the official ones.
        family, mirror, offline: see `porting.official.obtain.obtain`.
        hparams: what google/automl's --hparams takes, or "auto"; of all variants released.
        image_size: (height, width) of diff and parity; the weights' own by default.
        coco, images, annotations: pictures for the proofs, see `verify.parity.options.ParityOptions`; none of them:
            pictures of shapes are drawn.
        exports: formats of `export.options.FORMATS` to add. export_nms: what stands behind the levels in them.
    """

    checkpoint: str | None = None
    family: str | None = None
    mirror: str | None = None
    offline: bool = False
    hparams: str | None = None
    image_size: tuple[int, int] | None = None
    coco: Path | None = None
    images: Path | None = None
    annotations: Path | None = None
    license_name: str = LICENSE
    exports: tuple[str, ...] = ()
    export_nms: str = "none"

    @property
    def has_images(self) -> bool:
        """Whether the user named pictures."""
        return self.images is not None or self.coco is not None

    def dataset(self) -> CocoDataset | None:
        """The user's pictures; None where they named none.

        Raises:
            InputError: they cannot be used.
        """
        return _dataset(self.coco, self.images, self.annotations) if self.has_images or self.annotations else None


@functools.lru_cache(maxsize=1)
def _dataset(coco: Path | None, images: Path | None, annotations: Path | None) -> CocoDataset:
    from verify.parity.run import dataset_of

    return dataset_of(coco, images, annotations)
