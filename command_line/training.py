"""The commands that train: train, clean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from command_line import EXIT_CHECK_FAILED, PATH, command_text, console, json_option, print_json

if TYPE_CHECKING:
    from training.running.options import TrainOptions


@click.command()
@click.option("--output", type=PATH, required=True, metavar="DIR", help="Weights, logs and report go here.")
@click.option("--weights", type=PATH, help="To begin with; other classes get a new layer that predicts them.")
@click.option("--variant", help="Without --weights: random weights.")
@click.option("--coco", type=PATH, metavar="DIR", help="A folder in COCO's layout.")
@click.option("--split", default="train2017", show_default=True, help="Of --coco.")
@click.option("--val-split", default="val2017", show_default=True, help="Of --coco.")
@click.option("--images", type=PATH, metavar="DIR", help="Images, with --annotations.")
@click.option("--annotations", type=PATH, metavar="FILE|DIR", help="COCO, Pascal VOC, YOLO or OpenImages.")
@click.option("--val-images", type=PATH, metavar="DIR", help="Images to judge by; default: those of --images.")
@click.option("--val-annotations", type=PATH, metavar="FILE|DIR", help="Annotations of --val-images.")
@click.option("--data-format", default="auto", show_default=True, help="auto, coco, voc, yolo, openimages.")
@click.option("--recipe", default="google", show_default=True, help="google or effdet.")
@click.option("--generation", default="tf1", show_default=True, help="Of google/automl's trainer: tf1 or tf2.")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="One setting of the recipe or augmentation.")
@click.option("--epochs", type=click.IntRange(1), help="Default: the recipe's, 300.")
@click.option("--batch-size", metavar="N|auto", help="Images of one update, over all processes; auto: by GPU memory. "
              "Default: the recipe's, less for small data.")
@click.option("--learning-rate", type=float, help="Default: the recipe's; google's is for 64 images and scales.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches of one update.")
@click.option("--image-size", metavar="HxW", help="Default: the weights' or the variant's own.")
@click.option("--hparams", metavar="YAML|k=v,...", help="Of the model: what google/automl's --hparams takes.")
@click.option("--reset-head", type=click.Choice(["auto", "predict", "whole"]), default="auto", show_default=True,
              help="What of the class head begins anew: the predict layer where classes are others, always, or all.")
@click.option("--freeze", metavar="EXPR", help="Parameters that stay, by a regular expression: backbone|fpn.")
@click.option("--freeze-statistics", is_flag=True, help="Batch norm statistics of frozen parameters stay as well.")
@click.option("--pretrained-backbone", is_flag=True, help="With --variant: timm's ImageNet backbone (a download).")
@click.option("--amp", type=click.Choice(["off", "bf16", "fp16"]), default="off", show_default=True)
@click.option("--checkpointing", is_flag=True, help="Less memory: compute activations again.")
@click.option("--channels-last/--no-channels-last", default=None, help="Memory format; default: on a GPU.")
@click.option("--compile", is_flag=True, help="torch.compile the model.")
@click.option("--sync-bn/--no-sync-bn", "synchronised", default=True, show_default=True,
              help="Batch norms over the images of all processes.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that load images.")
@click.option("--seed", type=click.IntRange(0), help="Default: 42.")
@click.option("--evaluate-every", type=click.IntRange(0), default=1, show_default=True, help="Epochs; 0: never.")
@click.option("--evaluate", "evaluated", type=click.Choice(["auto", "ema", "raw"]), default="auto", show_default=True,
              help="Which weights are judged and kept; auto: moving averages once they have left their start.")
@click.option("--nms", metavar="PROFILE", help="Suppression of the evaluation; default: as the weights set it.")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many evaluations without a better AP.")
@click.option("--average", type=click.IntRange(0), default=0, show_default=True, metavar="K",
              help="Write the mean of the K best epochs as average.pth.")
@click.option("--save-every", type=click.IntRange(0), default=0, show_default=True, metavar="STEPS",
              help="Save the state for --resume within epochs too.")
@click.option("--check", is_flag=True, help="Look at the data only: what is wrong with it, or looks so.")
@click.option("--examine/--no-examine", default=True, show_default=True, help="Look at the data before the first step.")
@click.option("--resume", is_flag=True, help="Go on with the training in --output.")
@click.option("--tensorboard", is_flag=True, help="Log to OUTPUT/tensorboard too.")
@click.option("--wandb", is_flag=True, help="Log to Weights & Biases too.")
@click.option("--report/--no-report", default=True, show_default=True, help="report.html.")
@click.option("--prove", is_flag=True, help="Train nothing: compare the first steps, value by value, with TensorFlow's "
              "(recipe google) or effdet's (recipe effdet); without data on noise. Writes proof.json, .md, .html.")
@click.option("--prove-steps", type=click.IntRange(1, 100), default=5, show_default=True, help="Of --prove.")
@click.option("--prove-images", type=click.IntRange(1, 64), default=2, show_default=True, help="Of each step.")
@click.option("--prove-dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True,
              help="float64: equal to 1e-9; float32: within TensorFlow's own rounding, one step.")
@click.option("--prove-checkpoint", metavar="PATH", help="What --weights were ported from, for TensorFlow to read.")
@json_option
def train(
    pairs: tuple[str, ...], epochs: int | None, batch_size: str | None, learning_rate: float | None,
    freeze: str | None, freeze_statistics: bool, seed: int | None, hparams: str | None, tensorboard: bool,
    wandb: bool, check: bool, report: bool, as_json: bool, prove: bool, prove_steps: int, prove_images: int,
    prove_dtype: str, prove_checkpoint: str | None, **how: Any,
) -> None:
    """Train or fine-tune a model; under torchrun with several processes.

    Writes last.pth and best.pth (moving averages, with metadata), log.csv, steps.csv, report.html and the state for
    --resume.
    """
    from effdet_model.hparams import parse_hparams
    from porting.progress import progress
    from training.loop import train as run
    from training.running.checkup import check_data
    from training.running.options import TrainOptions
    from training.running.settings import parse_batch_size, parse_settings
    from training.running.show import trained_json, trained_summary

    named = {
        "epochs": epochs, "learning_rate": learning_rate, "freeze": freeze, "seed": seed,
        "freeze_statistics": freeze_statistics or None,
    }  # fmt: skip
    settings = parse_settings(pairs) | {name: value for name, value in named.items() if value is not None}
    logs = ("tensorboard",) * tensorboard + ("wandb",) * wandb
    with progress("training", "images") as shown:
        options = TrainOptions(
            settings=settings, batch_size=parse_batch_size(batch_size), hparams=parse_hparams(hparams).fields,
            extra_logs=logs, progress=shown, say=lambda text: click.echo(text, err=as_json), report=report,
            command=command_text(), **how,
        )  # fmt: skip
        if prove:
            return _prove(options, (prove_steps, prove_images, prove_dtype, prove_checkpoint, hparams), as_json)
        found, files = check_data(options) if check else (None, [])
        done = run(options) if not check else None
    if found is not None:
        lines = [*found.lines(), *map(str, files)]
        print_json(found.to_dict()) if as_json else click.echo("\n".join(lines))
        found.refuse()
    elif done is not None:  # under torchrun the first process speaks
        print_json(trained_json(done)) if as_json else click.echo(trained_summary(done))


def _prove(options: TrainOptions, how: tuple[Any, ...], as_json: bool) -> None:
    from training.proof.command import ProveOptions, run_proof
    from training.proof.show import print_proof, write_proof
    from verify.report import check_report

    check_report(options.output)
    result = run_proof(options, ProveOptions(*how))
    pages = write_proof(result, options.output)
    if as_json:
        print_json(result.to_dict())
    else:
        print_proof(result, console())
        for page in pages:
            click.echo(page)
    sys.exit(0 if result.passed else EXIT_CHECK_FAILED)


@click.command()
@click.argument("weights", type=PATH)
@click.option("--output", type=PATH, metavar="FILE|DIR", help="Default: beside WEIGHTS, with the hash in its name.")
@click.option("--variant", help="Where the weights have no metadata.")
@click.option("--hparams", metavar="YAML|k=v,...", help="What google/automl's --hparams takes.")
@json_option
def clean(weights: Path, output: Path | None, variant: str | None, hparams: str | None, as_json: bool) -> None:
    """Make of a trainer's file a weight file to publish: the model's tensors alone, named by their hash."""
    from effdet_model.hparams import parse_hparams
    from training.records.clean import clean_weights

    written = clean_weights(weights, output, variant, parse_hparams(hparams).fields)
    if as_json:
        print_json(written.to_json())
    else:
        for note in written.notes:
            click.echo(f"note: {note}", err=True)
        click.echo(f"{written.output}: {written.tensors} tensors, SHA-256 {written.sha256}")
