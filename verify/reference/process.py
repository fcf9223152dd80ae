"""The reference in a process of its own: what was imported before does not matter, its crashes are messages."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from effdet_model.errors import InputError
from effdet_model.extras import install_line
from verify.reference.frames import receive, send
from verify.reference.worker import THREADS

Message = tuple[dict[str, Any], np.ndarray | None] | BaseException



class ReferenceLayer(NamedTuple):
    """One layer: stable name, output NHWC, and the TensorFlow variables it used, in the order of use.

    Attributes:
        uses: for each variable the operation that it went into and its role there (see `verify.reference.ops`).
    """

    name: str
    output: np.ndarray
    variables: tuple[str, ...]
    uses: tuple[tuple[str, str], ...] = ()


_LAYERS_AHEAD = 2
"""How many layers TensorFlow may be ahead of the comparison; bounds memory."""


class ReferenceProcess:
    """A TensorFlow process; a context manager. It starts at once, so that its imports run beside the caller's.

    Args:
        kind: "tensorflow" (this project's reference), "pipeline" (the same from files to detections), "training" (the
            same in training), "automl", "savedmodel" or "tflite".
        path: the clone's or SavedModel's folder, or the .tflite file, for the latter three.
        threads: how many TensorFlow may use; None: as many as it likes.
    """

    def __init__(self, kind: str = "tensorflow", path: Path | None = None, threads: int | None = None) -> None:
        self.kind = kind
        self.path = path
        self.versions: dict[str, str] = {}
        self._errors = tempfile.TemporaryFile()
        self._messages: queue.Queue[Message] = queue.Queue(0 if kind == "pipeline" else _LAYERS_AHEAD)
        self._sending = threading.Lock()
        self._read: Callable[[str], np.ndarray] | None = None
        self._closed = threading.Event()
        self._outstanding = 0
        self._outgoing: queue.Queue[tuple[Mapping[str, Any], np.ndarray | None]] = queue.Queue()
        self._sender: threading.Thread | None = None
        command = [sys.executable, "-m", "verify.reference.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=_environment(kind, threads),
        )
        self._receiver = threading.Thread(target=self._receive_all, daemon=True)
        self._receiver.start()

    def open(
        self, config: Mapping[str, Any], read: Callable[[str], np.ndarray], dtype: str = "float32",
        backbone_scope: str | None = None, truth: Literal["", "run", "layer"] = "",
        profile: Mapping[str, Any] | None = None, training: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what model to run; may be said again for another one.

        Args:
            config: plain values (`EfficientDetConfig.to_dict()`).
            read: gives a variable's array by its canonical TensorFlow name; called from another thread.
            dtype: "float32" or "float64".
            backbone_scope: first part of the backbone's variable names.
            truth: "run": every layer comes twice, in float32 and then in float64; "layer": the second is computed
                from float32's own input of the layer.
            profile: of suppression, field by field; the pipeline alone needs it.
            training: settings other than google/automl's defaults (`verify.reference.trainer.facts`), for "training".
        """
        self._settle()
        self._read = read
        path = str(self.path.resolve()) if self.path else None
        self._send(
            {
                "type": "open", "kind": self.kind, "path": path, "config": dict(config), "dtype": dtype,
                "scope": backbone_scope, "truth": truth, "profile": dict(profile) if profile is not None else None,
                "training": dict(training or {}),
            }
        )

    def layers(self, images: np.ndarray) -> Iterator[ReferenceLayer]:
        """Every layer, as TensorFlow computes it.

        Args:
            images: [N, H, W, 3], normalised.

        Raises:
            InputError: TensorFlow is missing, or the reference failed; the message says why.
        """
        return self._answers({"type": "run"}, images)

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[ReferenceLayer]:
        """What a layer would give with each of some faults; each answer is named by its fault.

        Args:
            faults: FAULT or FAULT@PLACE (see `verify.reference.faults`).
        """
        return self._answers({"type": "probe", "layer": layer, "faults": list(faults)}, images)

    def train(
        self, images: np.ndarray, boxes: Sequence[np.ndarray], classes: Sequence[np.ndarray],
        give: Sequence[str] = ("labels", "gradients", "variables", "averages"),
    ) -> dict[str, np.ndarray]:
        """One training step of the model that was opened; for the kind "training".

        Args:
            images: [N, H, W, 3], normalised.
            boxes, classes: per image float32 [n, 4] (y0, x0, y1, x1 in input pixels) and int [n] from 1 on.
            give: what is wanted beside losses and rate.

        Returns:
            Arrays by the names of `verify.reference.trainer.step.TrainingReference.answer`.
        """
        request = {
            "type": "train", "give": list(give), "boxes": [np.asarray(one).tolist() for one in boxes],
            "classes": [np.asarray(one).tolist() for one in classes],
        }
        return {layer.name: layer.output for layer in self._answers(request, images)}

    def submit(self, request: Mapping[str, Any], array: np.ndarray | None = None) -> None:
        """Ask without waiting, neither for what came before nor for TensorFlow to read it; answers come in order.

        For the pipeline alone: its answers are kept until they are collected, so bound what is outstanding.
        """
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_all, daemon=True)
            self._sender.start()
        self._outgoing.put((request, array))
        self._outstanding += 1

    def collect(self) -> Iterator[ReferenceLayer]:
        """The answer to the oldest request that was not answered yet."""
        while True:
            header, array = self._next()
            if header["type"] == "done":
                self._outstanding -= 1
                return
            assert array is not None
            uses = tuple((operation, role) for operation, role in header["uses"])
            yield ReferenceLayer(header["name"], array, tuple(header["variables"]), uses)

    def _answers(self, request: Mapping[str, Any], images: np.ndarray) -> Iterator[ReferenceLayer]:
        self._settle()
        self._send(request, images)
        self._outstanding += 1
        yield from self.collect()

    def _settle(self) -> None:
        """Let runs end that their caller did not follow to the end."""
        while self._outstanding:
            header, _ = self._next()
            self._outstanding -= header["type"] == "done"

    def close(self) -> None:
        """End the process; also when it is in the middle of something."""
        self._closed.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._receiver.join()
        if self._sender is not None:
            self._sender.join()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream:
                    stream.close()
            except BrokenPipeError:
                pass
        self._errors.close()

    def __enter__(self) -> ReferenceProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, header: Mapping[str, Any], array: np.ndarray | None = None) -> None:
        assert self._process.stdin is not None
        try:
            with self._sending:
                send(self._process.stdin, header, array)  # type: ignore[arg-type]
        except (BrokenPipeError, ValueError):
            self._next()
            raise self._crash() from None

    def _send_all(self) -> None:
        """Send what was submitted; where the process is gone, its last words come as an answer."""
        assert self._process.stdin is not None
        while not self._closed.is_set():
            try:
                request, array = self._outgoing.get(timeout=0.2)
                with self._sending:
                    send(self._process.stdin, request, array)  # type: ignore[arg-type]
            except queue.Empty:
                continue
            except (BrokenPipeError, ValueError):
                return

    def _next(self) -> tuple[dict[str, Any], np.ndarray | None]:
        message = self._messages.get()
        if isinstance(message, BaseException):
            self._put(message)
            raise message
        return message

    def _receive_all(self) -> None:
        """Hand on layers, answer the process's questions for variables; ends with an exception in the queue."""
        assert self._process.stdout is not None
        try:
            while True:
                header, array = receive(self._process.stdout)  # type: ignore[arg-type]
                if header["type"] == "ready":
                    self.versions = {key: header[key] for key in ("tensorflow", "numpy")}
                elif header["type"] == "read":
                    assert self._read is not None and self._process.stdin is not None
                    value = self._read(header["name"])
                    with self._sending:
                        send(self._process.stdin, {"type": "array"}, value)  # type: ignore[arg-type]
                elif header["type"] == "error":
                    self._put(_error(header, self.kind))
                    return
                else:
                    self._put((header, array))
        except (EOFError, BrokenPipeError, ValueError) as error:
            self._put(error if isinstance(error, InputError) else self._crash())
        except BaseException as error:  # raised again where the caller waits
            self._put(error)

    def _put(self, message: Message) -> None:
        while not self._closed.is_set():
            try:
                self._messages.put(message, timeout=0.2)
                return
            except queue.Full:
                continue

    def _crash(self) -> InputError:
        code = self._process.wait()
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = "; it may have run out of memory, try a smaller --image-size" if code == -9 else ""
        return InputError(
            f"reference ({self.kind}): expected TensorFlow to run to its end, found that its process ended with "
            f"{reason}{hint}. Its last words: {self._last_words()}"
        )

    def _last_words(self) -> str:
        if self._closed.is_set():
            return "none"
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-3:]) or "none"


def _environment(kind: str, threads: int | None) -> dict[str, str]:
    """TensorFlow on the CPU, quiet, without oneDNN's reordered sums (they cost accuracy, not time)."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    settings = {
        "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
        "GRPC_VERBOSITY": "ERROR",
    }
    if threads is not None:
        settings |= {THREADS: str(threads), "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    if kind != "tensorflow":
        settings["TF_USE_LEGACY_KERAS"] = "1"
    return {**os.environ, **settings}


def _error(header: Mapping[str, Any], kind: str) -> InputError:
    message = header["message"]
    if header["kind"] == "missing":
        return InputError(
            f"reference ({kind}): expected TensorFlow to be installed, found: {message}; run "
            f"{install_line('verify')}."
        )
    if header["kind"] == "broken":
        return InputError(
            f"reference ({kind}): expected a working TensorFlow, found that importing it fails: {message}; "
            f"install it again: {install_line('verify')}."
        )
    if header["kind"] == "memory":
        return InputError(
            f"reference ({kind}): expected enough memory, found: {message}; try a smaller --image-size."
        )
    return InputError(
        f"reference ({kind}): expected a model that TensorFlow can run, found: {message}; check the variant, "
        "--hparams and --image-size."
    )
