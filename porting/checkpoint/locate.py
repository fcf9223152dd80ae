"""Which files the path that a user names stands for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from effdet_model.errors import InputError, nearest
from porting.checkpoint import archives, h5, sstable
from porting.checkpoint.tflite.flatbuffer import MAGIC as TFLITE_MAGIC

MAX_STATE_BYTES = 1 << 20
ARCHIVE = "archive"
"""The folder that google/automl's trainer moves its best checkpoint to."""
SAVED_MODEL = "saved_model.pb"
"""The file that makes a folder a SavedModel; its variables lie in the folder `variables` beside it."""
_STATE_PATHS = 50
_SHARD = re.compile(r"(?P<stem>.+)\.data-\d{5}-of-\d{5}")


@dataclass
class Located:
    """`location` is the prefix of a tensor bundle, a .h5 or a .tflite file; `label` what messages call it.

    `files` is empty where the bundle itself will tell; `stem` is the file name of the prefix; `surroundings` are
    names that the user did not type: folders in the archive, paths in the file `checkpoint`; `program` is where a
    SavedModel's graph would lie.
    """

    kind: Literal["bundle", "h5", "tflite"]
    location: Path
    label: str
    files: list[Path] = field(default_factory=list)
    on_close: Callable[[], None] | None = None
    surroundings: tuple[str, ...] = ()
    program: Path | None = None

    @property
    def stem(self) -> str:
        return self.location.name

    @property
    def is_saved_model(self) -> bool:
        """Whether these are the variables of an exported SavedModel."""
        return self.kind == "bundle" and self.program is not None

    def close(self) -> None:
        if self.on_close:
            self.on_close()


def locate(path: Path) -> Located:
    """Find the checkpoint at a folder, a prefix, a file of a checkpoint, a .h5 file or an archive.

    Raises:
        InputError: nothing there, several candidates, or something else than a checkpoint.
    """
    located = _located(path)
    if not located.surroundings:
        located.surroundings = _state_paths(located.location.with_name("checkpoint"), located.stem)
    if located.kind == "bundle" and located.stem == located.location.parent.name == "variables":  # always called that
        located.program = located.location.parent.with_name(SAVED_MODEL)
    return located


def has_graph(path: Path) -> bool:
    """Whether a graph comes with the weights at a path, which says some of the model's configuration."""
    if path.suffix == ".tflite":
        return True
    program = path if path.name == SAVED_MODEL else path / SAVED_MODEL
    return program.is_file() and program.stat().st_size > 0


def _located(path: Path) -> Located:
    try:
        if path.is_dir():
            return _in_folder({entry.name: entry for entry in path.iterdir() if entry.is_file()}, str(path), path)
        if path.is_file():
            return _by_content(path)
    except OSError as error:
        raise InputError(f"{path}: expected a readable path, found: {error.strerror}; check it.") from error
    if path.with_name(path.name + ".index").is_file() or any(path.parent.glob(_literal(path.name) + ".data-*")):
        return Located("bundle", path, str(path))
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    hint = f"did you mean {' or '.join(close)}?" if close else "check the path."
    raise InputError(
        f"{path}: expected a checkpoint (folder, prefix, .index, .h5, .tflite, .tar.gz), found nothing; {hint}"
    )


def _in_folder(files: dict[str, Path], label: str, folder: Path | None = None) -> Located:
    """The one checkpoint among files of a folder or an archive (`files`: name there -> file)."""
    if "checkpoint" in files:
        name = _state_target(files["checkpoint"], label)
        if f"{name}.index" not in files:
            others = ", ".join(sorted(other for other in files if other.endswith(".index"))) or "no .index file"
            raise InputError(
                f"{label}: expected {name}.index, which the file `checkpoint` names, found {others}; "
                "copy the missing file, or name the prefix of another checkpoint."
            )
        return Located("bundle", _prefix(files[f"{name}.index"]), f"{label}/{name}")
    found = sorted(name for name in files if name.endswith((".index", ".h5", ".hdf5")))
    if not found and SAVED_MODEL not in files:
        found = sorted(name for name in files if name.endswith(".tflite"))
    if len(found) > 1:
        raise InputError(
            f"{label}: expected one checkpoint or a file `checkpoint` that names it, found {len(found)}: "
            f"{', '.join(found[:10])}; name one of them."
        )
    if found and found[0].endswith(".index"):
        return Located("bundle", _prefix(files[found[0]]), f"{label}/{found[0][: -len('.index')]}")
    if found:
        return _by_content(files[found[0]], f"{label}/{found[0]}")
    if folder is not None and (folder / "variables" / "variables.index").is_file():  # a SavedModel
        return Located("bundle", folder / "variables" / "variables", f"{label}/variables/variables")
    if SAVED_MODEL in files:
        raise InputError(
            f"{label}: expected the variables of this SavedModel (variables/variables.index and .data-...), found "
            f"{SAVED_MODEL} alone; copy the whole folder."
        )
    shards = [name for name in files if _SHARD.fullmatch(name)]
    if folder is not None and not shards and (folder / ARCHIVE).is_dir():
        return locate(folder / ARCHIVE)
    shown = ", ".join(sorted(files)[:5]) or "an empty folder"
    missing = f"; the index of {shards[0]} is missing, copy it too." if shards else "; name another folder."
    raise InputError(f"{label}: expected a checkpoint (NAME.index or NAME.h5), found {shown}{missing}")


def _state_target(state: Path, label: str) -> str:
    """The base name in `model_checkpoint_path: "..."`; folders in it belong to the machine that wrote it."""
    with open(state, "rb") as file:
        content = file.read(MAX_STATE_BYTES)
    match = re.search(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\\n]|\\.)*)"', content, re.MULTILINE)
    name = ""
    if match:
        with contextlib.suppress(UnicodeDecodeError):
            text = re.sub(rb"\\([\"'\\])", rb"\1", match[1]).decode()
            name = re.split(r"[/\\]", text)[-1]
    if name in ("", ".", ".."):
        raise InputError(
            f'{label}: expected `model_checkpoint_path: "NAME"` in its file `checkpoint`, found '
            f"{content[:60]!r}; name the prefix of the checkpoint instead of the folder."
        )
    return name


def _state_paths(state: Path, stem: str) -> tuple[str, ...]:
    """The paths in a file `checkpoint`, where it is about the checkpoint of this name; () where there is none."""
    try:
        with open(state, "rb") as file:
            content = file.read(MAX_STATE_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ()
    found = re.findall(r'^\s*(?:all_)?model_checkpoint_paths?:\s*"([^"\n]{1,4096})"', content, re.MULTILINE)
    paths = tuple(dict.fromkeys(found))[:_STATE_PATHS]
    return paths if any(re.split(r"[/\\]", path)[-1] == stem for path in paths) else ()


def _by_content(path: Path, label: str | None = None) -> Located:
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - 8))
        tail = file.read(8)
    label = label or str(path)
    if head.startswith(h5.MAGIC):
        return Located("h5", path, label, [path])
    if head[4:8] == TFLITE_MAGIC:
        return Located("tflite", path, label, [path])
    if archives.is_archive(head):
        return _in_archive(path)
    shard = _SHARD.fullmatch(path.name)
    if path.name in ("checkpoint", SAVED_MODEL):
        return locate(path.parent)
    if path.name.endswith(".index"):
        return Located("bundle", _prefix(path), label[: -len(".index")])
    if path.name.endswith(".meta"):
        return Located("bundle", path.with_name(path.name[: -len(".meta")]), label[: -len(".meta")])
    if shard:
        return Located("bundle", path.with_name(shard["stem"]), label[: len(label) - len(path.name)] + shard["stem"])
    if path.with_name(path.name + ".index").is_file():
        return Located("bundle", path, label)
    raise InputError(
        f"{label}: expected a checkpoint (folder, prefix, .index, .h5, .tflite, .tar.gz), found "
        f"{_describe(path.name, head, tail)}"
    )


def _in_archive(path: Path) -> Located:
    unpacked = archives.unpack(path)
    try:
        located = _in_folder(unpacked.files, str(path))
    except BaseException:
        unpacked.close()
        raise
    located.files, located.on_close = [path], unpacked.close
    state = unpacked.files.get("checkpoint")
    stem = located.label.rpartition("/")[2]
    if any(PurePosixPath(name).parts[-2:] == ("variables", "variables.index") for name in unpacked.names):
        located.program = unpacked.files.get(SAVED_MODEL, located.location.with_name(SAVED_MODEL))
    located.surroundings = (*unpacked.names, *(_state_paths(state, stem) if state else ()))
    return located


def _prefix(index: Path) -> Path:
    return index.with_name(index.name[: -len(".index")])


def _describe(name: str, head: bytes, tail: bytes) -> str:
    """What a file that is no checkpoint is, and what to do."""
    start = head.lstrip()[:100].lower()
    if not head:
        return "an empty file; copy or download it again."
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; download the file itself, not the page that shows it."
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file with `git lfs pull`."
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "a zip or pickle file such as PyTorch's .pth; it goes to --weights, a TensorFlow file to --checkpoint."
    if head[:1] == b"\x0a" and name.endswith(".pb"):
        return "a graph without variables; name the SavedModel's folder or the checkpoint that it was made from."
    if head[8:9] == b"{" and head[:8].endswith(b"\0\0"):
        return "a .safetensors file; give it as --weights, the TensorFlow file as --checkpoint."
    if tail == sstable.MAGIC:
        return (
            "a table without its data, such as a V1 checkpoint of TensorFlow 0.x; "
            "load it with TensorFlow 1 and save it with tf.compat.v1.train.Saver()."
        )
    return f"unknown content ({head[:8].hex()}); name another file."


def _literal(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)
