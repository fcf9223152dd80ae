"""last.pth, best.pth and the best few."""

from __future__ import annotations

import contextlib
from pathlib import Path

from torch import Tensor

from effdet_model.weights import metadata_path, read_state_dict
from training.records.hparams import write_hparams
from training.records.state import Progressed, write_trained
from training.running.job import Job

BEST, LAST, AVERAGE, KEPT_FOLDER = "best.pth", "last.pth", "average.pth", "kept"


class TrainedFiles:
    """The weight files of a training, each with metadata and loadable by `create_model`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = job.options.output
        self.best, self.last = self.folder / BEST, self.folder / LAST
        if job.rank.is_first:
            write_hparams(job.config, self.folder)

    def write(self, weights: dict[str, Tensor], variables: str, progressed: Progressed) -> None:
        """After an epoch: last.pth, and best.pth where it is the best so far, or nothing is judged."""
        ap = progressed.history[-1].get("AP")
        origin = self.job.origin(variables, progressed.epoch, ap)
        write_trained(self.last, weights, self.job.config, origin)
        if progressed.best is None or progressed.best_epoch == progressed.epoch:
            write_trained(self.best, weights, self.job.config, origin)
        if self.job.options.average and ap is not None:
            self._keep(weights, origin, ap, progressed)

    def best_weights(self) -> dict[str, Tensor]:
        """What best.pth holds."""
        return read_state_dict(self.best)

    def written(self) -> list[Path]:
        """The weight files there are."""
        return [path for path in (self.best, self.last, self.folder / AVERAGE) if path.is_file()]

    def _keep(self, weights: dict[str, Tensor], origin: dict[str, object], ap: float, progressed: Progressed) -> None:
        """Have the best few in a folder of their own."""
        folder = self.folder / KEPT_FOLDER
        folder.mkdir(exist_ok=True)
        name = f"epoch_{progressed.epoch:05d}.pth"
        ranked = sorted([*progressed.kept, (ap, name)], key=lambda item: (-item[0], item[1]))
        progressed.kept = ranked[: self.job.options.average]
        if (ap, name) in progressed.kept:
            write_trained(folder / name, weights, self.job.config, origin)
        chosen = {name for _, name in progressed.kept}
        for path in folder.glob("epoch_*.pth"):
            if path.name not in chosen:
                for old in (path, metadata_path(path)):
                    with contextlib.suppress(FileNotFoundError):
                        old.unlink()
