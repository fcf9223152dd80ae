"""The work file of parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError
from verify.evaluation.coco import ImageRecord
from verify.evaluation.work_file import WorkFile
from verify.parity.image import ImageParity
from verify.parity.port import file_contents_sha256

WORK_FILE = "parity.work.jsonl"


class ParityStore(WorkFile):
    """Images by id, each batch on disk before the next one counts; see `WorkFile`."""

    format = "effdet-port parity 1"
    command = "parity"

    def __init__(self, path: Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self.images: dict[int, ImageParity] = {}
        super().__init__(path, settings, resume)

    def check_contents(self, records: Sequence[ImageRecord]) -> None:
        """The files of the images that are done must be as they were.

        Raises:
            InputError: one of them changed.
        """
        for record in records:
            done = self.images.get(record.id)
            if done is not None and done.sha256 != file_contents_sha256(record):
                raise InputError(
                    f"resume: expected {record.path} as it was when {self.path} was written, found other contents; "
                    "put the file back, or leave --resume out to start anew."
                )

    def append(self, images: Sequence[ImageParity]) -> None:
        """Keep some images; when this returns they are on disk."""
        if images:
            self.write({"images": [image.to_plain() for image in images]})
            self.images.update((image.image_id, image) for image in images)

    def take(self, content: Mapping[str, Any]) -> None:
        """Take over one batch of the file."""
        self.images.update((int(plain["image_id"]), ImageParity.from_plain(plain)) for plain in content["images"])
