"""The process that runs TensorFlow: gets a config, variables and inputs through stdin, answers through stdout.

Started by `verify.reference.process`; nothing here imports torch or any other room, so that it does not matter
what the calling process has imported.
"""

from __future__ import annotations

import collections
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from verify.reference.frames import receive, send

THREADS = "EFFDET_REFERENCE_THREADS"
"""Environment variable: how many threads TensorFlow may use; unset: as many as it likes."""


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
    if os.environ.get(THREADS):
        tf.config.threading.set_intra_op_parallelism_threads(int(os.environ[THREADS]))
        tf.config.threading.set_inter_op_parallelism_threads(1)
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
    waiting: collections.deque[tuple[dict[str, Any], np.ndarray | None]] = collections.deque()

    def read(name: str) -> np.ndarray:
        """A variable; requests that were sent ahead wait until it has come."""
        send(answers, {"type": "read", "name": name})
        while True:
            header, array = receive(requests)
            if header["type"] == "array":
                assert array is not None
                return array
            waiting.append((header, array))

    runner: Any = None
    while True:
        request, array = waiting.popleft() if waiting else receive(requests)
        if request["type"] == "open":
            runner = _runner(request, read)
            continue
        for name, found in _answer(runner, request, array):
            told = {"variables": list(runner.used), "uses": list(getattr(runner, "uses", ()))}
            send(answers, {"type": "layer", "name": name, **told}, found)
        send(answers, {"type": "done"})


def _answer(
    runner: Any, request: Mapping[str, Any], array: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    kind = request["type"]
    if kind == "run":
        assert array is not None
        return runner.layers(array)
    if kind == "probe":
        assert array is not None
        return runner.probe(array, request["layer"], request["faults"])
    return runner.answer(request, array)


def _runner(job: dict[str, Any], read: Callable[[str], np.ndarray]) -> Any:
    if job["kind"] == "automl":
        from verify.reference.automl import AutomlReference

        return AutomlReference(job["path"], job["config"], read, job["scope"])
    if job["kind"] == "savedmodel":
        from verify.reference.programs import SavedModelReference

        return SavedModelReference(job["path"], job["config"])
    if job["kind"] == "tflite":
        from verify.reference.programs import TfliteReference

        return TfliteReference(job["path"], job["config"])
    if job["kind"] == "pipeline":
        from verify.reference.pipeline import TensorFlowPipeline

        return TensorFlowPipeline(job["config"], job["profile"], read, job["scope"])
    if job["kind"] == "training":
        from verify.reference.trainer.step import TrainingReference

        return TrainingReference(job["config"], job["training"], read, job["dtype"], job["scope"])
    from verify.reference.network import Reference, ReferenceWithTruth

    if job["truth"]:
        return ReferenceWithTruth(job["config"], read, job["scope"], isolated=job["truth"] == "layer")
    return Reference(job["config"], read, job["dtype"], job["scope"])


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


if __name__ == "__main__":
    main()
