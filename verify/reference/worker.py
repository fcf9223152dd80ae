"""The process that runs TensorFlow: gets a config, variables and inputs through stdin, answers through stdout.

Started by `verify.reference.process`; nothing here imports torch or any other room, so that it does not matter
what the calling process has imported.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from verify.reference.frames import receive, send


class Runner(Protocol):
    """A model that can be asked for its layers; `verify.reference.network.Reference` says what everything means."""

    @property
    def used(self) -> Sequence[str]: ...
    def layers(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]: ...
    def probe(
        self, images: np.ndarray, layer: str, faults: Sequence[str]
    ) -> Iterator[tuple[str, np.ndarray]]: ...


def main() -> None:
    """Serve until stdin ends; whatever TensorFlow prints goes to stderr."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        import tensorflow as tf
    except Exception as error:  # a broken installation can raise anything
        kind = "missing" if isinstance(error, ModuleNotFoundError) else "broken"
        send(answers, {"type": "error", "kind": kind, "message": _one_line(error)})
        return
    tf.get_logger().setLevel("ERROR")
    send(answers, {"type": "ready", "tensorflow": tf.__version__, "numpy": np.__version__})
    try:
        _serve(requests, answers)
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # sent to the caller, who says it once and clearly
        traceback.print_exc()
        kind = "memory" if type(error).__name__ in ("MemoryError", "ResourceExhaustedError") else "failed"
        send(answers, {"type": "error", "kind": kind, "message": _one_line(error)})


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    def read(name: str) -> np.ndarray:
        send(answers, {"type": "read", "name": name})
        _, array = receive(requests)
        if array is None:
            raise EOFError
        return array

    runner: Runner | None = None
    while True:
        request, images = receive(requests)
        if images is None:
            runner = _runner(request, read)
            continue
        assert runner is not None
        if request["type"] == "probe":
            found = runner.probe(images, request["layer"], request["faults"])
        else:
            found = runner.layers(images)
        for name, array in found:
            told = {"variables": list(runner.used), "uses": list(getattr(runner, "uses", ()))}
            send(answers, {"type": "layer", "name": name, **told}, array)
        send(answers, {"type": "done"})


def _runner(job: dict[str, Any], read: Callable[[str], np.ndarray]) -> Runner:
    if job["kind"] == "automl":
        from verify.reference.automl import AutomlReference

        return AutomlReference(job["path"], job["config"], read, job["scope"])
    if job["kind"] == "savedmodel":
        from verify.reference.savedmodel import SavedModelReference

        return SavedModelReference(job["path"], job["config"])
    if job["kind"] == "pipeline":
        from verify.reference.pipeline import TensorFlowPipeline

        return TensorFlowPipeline(job["config"], read, job["scope"])
    from verify.reference.network import Reference, ReferenceWithTruth

    if job["truth"]:
        return ReferenceWithTruth(job["config"], read, job["scope"], isolated=job["truth"] == "layer")
    return Reference(job["config"], read, job["dtype"], job["scope"])


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


if __name__ == "__main__":
    main()
