"""The data of a training: where it comes from, and what is judged on."""

from __future__ import annotations

from pathlib import Path

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError, unknown_name
from training.augmentation.settings import AugmentationSettings
from training.data import DataSource, DetectionDataset, open_dataset
from training.data.loading import TrainingLoader
from training.recipes import Recipe
from training.running.data import Data, fingerprint
from training.running.options import TrainOptions
from verify.evaluation.coco import CocoDataset, ImageRecord
from verify.evaluation.ranks import Ranks


def open_data(options: TrainOptions) -> Data:
    """Training and validation images.

    Raises:
        InputError: no data is named, or it cannot be used.
    """
    for name in options.settings:
        if name not in Recipe.__dataclass_fields__ and name not in AugmentationSettings.__dataclass_fields__:
            known = {*Recipe.__dataclass_fields__, *AugmentationSettings.__dataclass_fields__} - {"name"}
            raise unknown_name("setting", name, known)
    training = open_dataset(training_source(options))
    if len(training) == 0:
        raise InputError("dataset: expected at least one image to train on, found none; check the annotations.")
    source = validation_source(options)
    validation = open_dataset(source, like=training) if source is not None else None
    notes = [*training.notes, f"{len(training)} images to train on, {len(training.label_map)} classes."]
    judged = None
    if validation is None:
        notes.append("No validation images: nothing is judged, best.pth is last.pth; --val-images names some.")
    else:
        judged = coco_dataset(validation)
        notes += [*validation.notes, f"{len(validation)} images to judge by."]
    parts = {"training": training.coco_annotations(), "validation": judged.annotations if judged else None}
    return Data(
        len(training), dict(training.label_map), fingerprint(parts), judged, tuple(notes), training, validation
    )


def open_loader(
    options: TrainOptions, data: Data, config: EfficientDetConfig, recipe: Recipe, batch_size: int, rank: Ranks
) -> TrainingLoader:
    """The loader of this process."""
    return TrainingLoader(
        data.dataset, config, augmentation(options, recipe), batch_size=batch_size, seed=recipe.seed,
        workers=options.workers, rank=rank.rank, world_size=rank.world,
    )  # fmt: skip


def augmentation(options: TrainOptions, recipe: Recipe) -> AugmentationSettings:
    """The recipe's augmentation with what the user set."""
    given = {name: value for name, value in options.settings.items() if name not in Recipe.__dataclass_fields__}
    return AugmentationSettings(style=recipe.augmentation_style).replace(**given)


def training_source(options: TrainOptions) -> DataSource:
    """Where the training images are."""
    return DataSource(
        coco=options.coco, split=options.split if options.coco else None, images=options.images,
        annotations=options.annotations, format=options.data_format,
    )  # fmt: skip


def validation_source(options: TrainOptions) -> DataSource | None:
    """Where the validation images are; None where there are none."""
    if options.val_images is None and options.val_annotations is None:
        asked = options.val_split != TrainOptions.val_split
        if options.coco is None or not (asked or _has_split(options.coco, options.val_split)):
            return None
        return DataSource(coco=options.coco, split=options.val_split, format=options.data_format)
    if options.val_annotations is None and options.images is not None and options.annotations is not None:
        raise InputError("--val-annotations: expected annotations of --val-images, found none; name them.")
    return DataSource(
        images=options.val_images or options.images, annotations=options.val_annotations, format=options.data_format,
    )  # fmt: skip


def coco_dataset(dataset: DetectionDataset) -> CocoDataset:
    """A dataset as the evaluation has its own; class ids are category ids."""
    described = dataset.coco_annotations()
    images = tuple(
        ImageRecord(int(image["id"]), Path(image["file_name"]), (int(image["height"]), int(image["width"])))
        for image in described["images"]
    )
    categories = {int(one["id"]): str(one["name"]) for one in described["categories"]}
    return CocoDataset(images, categories, tuple(described["annotations"]))


def _has_split(coco: Path, split: str) -> bool:
    return any((Path(coco) / "annotations").glob(f"*{split}.json"))

