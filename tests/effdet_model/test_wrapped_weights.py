"""Weight files as people have them: wrappers' names, trainers' files, files that only a pickle can read."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from effdet_model import InputError, create_model
from effdet_model.errors import InputWarning
from effdet_model.fit import same_bits
from effdet_model.weights import read_metadata, read_state_dict, read_tensors, read_weights
from porting.inspect.run import inspect_file
from porting.weights.reader import WeightFile

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Of the smallest model, with values."""
    torch.manual_seed(0)
    return create_model("lite0").state_dict()


def loaded_with_note(path: Path, state: State, note: str) -> None:
    """The file gives a model with exactly these tensors, and says what was done to them."""
    with pytest.warns(InputWarning, match=note):
        model = create_model("lite0", weights=path)
    mine = model.state_dict()
    assert list(mine) == list(state) and all(same_bits(mine[key], state[key]) for key in state)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model.", "ema.module."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes(state: State, tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    wrapped = {prefix + key: value for key, value in state.items()}
    if suffix == ".pth":
        torch.save(wrapped, path)
    else:
        save_file(wrapped, path)
    loaded_with_note(path, state, f"took the prefix '{prefix}' off all names")


def test_a_bench_of_effdet(state: State, tmp_path: Path) -> None:
    from effdet import create_model as effdet_model

    bench = effdet_model("tf_efficientdet_lite0", bench_task="train", pretrained=False, pretrained_backbone=False)
    torch.save(bench.state_dict(), tmp_path / "bench.pth")
    notes = "left out anchors.boxes|took the prefix 'model.'"
    loaded_with_note(tmp_path / "bench.pth", bench.model.state_dict(), notes)
    torch.save({f"module.{key}": value for key, value in bench.state_dict().items()}, tmp_path / "ddp.pth")
    loaded_with_note(tmp_path / "ddp.pth", bench.model.state_dict(), "took the prefix 'module.model.'")


def trainer_file(state: State, **more: Any) -> dict[str, Any]:
    """As timm's and effdet's CheckpointSaver write it."""
    return {
        "epoch": 7, "arch": "lite0", "version": 2, "metric": 0.31, "args": argparse.Namespace(lr=0.1, model="lite0"),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": state, **more,
    }  # fmt: skip


def test_a_trainers_file(state: State, tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    torch.save(trainer_file(collections.OrderedDict(state)), path)
    loaded_with_note(path, state, "took the state_dict under 'state_dict'")


def test_a_trainers_moving_averages_go_first(state: State, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    raw = {f"module.{key}": torch.zeros_like(value) for key, value in state.items()}
    torch.save(trainer_file(raw, state_dict_ema={f"module.{key}": value for key, value in state.items()}), path)
    loaded_with_note(path, state, "moving averages under 'state_dict_ema'; 'state_dict' holds other values|prefix")
    notes = read_weights(path).notes
    assert len(notes) == 2 and notes[1].startswith("took the prefix 'module.'")


def test_counters_are_not_needed(state: State, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({key: value for key, value in state.items() if "num_batches_tracked" not in key}, path)
    loaded_with_note(path, state, "108 num_batches_tracked are not in the file")


def test_a_plain_state_dict_needs_no_note(state: State, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save(state, tmp_path / "x.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("x.pth", "old.pth"):
        assert read_weights(tmp_path / name, mapped=True).notes == ()
        assert list(read_state_dict(tmp_path / name)) == list(state)
    assert [warning for warning in recwarn if issubclass(warning.category, InputWarning)] == []


def test_several_models_in_one_file(state: State, tmp_path: Path) -> None:
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in state.items()}
    torch.save(both, tmp_path / "x.pth")
    with pytest.raises(InputError, match="tensors of one model, found several, below 'student.', 'teacher.'; save"):
        read_state_dict(tmp_path / "x.pth")
    torch.save({"a": state, "b": state}, tmp_path / "y.pth")
    with pytest.raises(InputError, match="expected one state_dict, found a, b; save the one you mean alone"):
        read_state_dict(tmp_path / "y.pth")
    torch.save({"epoch": 3, "optimizer": {"a": torch.zeros(2)}}, tmp_path / "z.pth")
    with pytest.raises(InputError, match="plain state_dict .*, found a dict with epoch, optimizer; save model.state"):
        read_state_dict(tmp_path / "z.pth")


def test_what_only_a_pickle_can_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(InputError) as caught:
        create_model("lite0", weights=path)
    message = str(caught.value)
    assert "a pickle that needs torch.nn.modules.linear.Linear and may run any code" in message
    assert "torch.save(m.state_dict(), 'tensors.pth')" in message and "m['state_dict']" in message
    assert len(message) <= 600 and "\x1b" not in message


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(1 << 20, 1 << 18), r"'x', \[1048576, 262144\] repeated from 4 bytes"),
        (torch.eye(3).to_sparse(), "'x', of layout sparse_coo"), (torch.zeros(2, device="meta"), "on device meta"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_plain(tmp_path: Path, tensor: torch.Tensor, message: str) -> None:
    torch.save({"x": tensor}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"expected plain tensors, found .*{message}"):
        read_state_dict(tmp_path / "x.pth")


def test_names_that_are_not_text(tmp_path: Path) -> None:
    refused = {7: "names that are text, found 7 of type int", "x" * 2000: "names of 1 to 1000 characters, found one of"}
    for name, message in refused.items():
        torch.save({name: torch.zeros(1)}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=message) as caught:
            read_state_dict(tmp_path / "x.pth")
        assert len(str(caught.value)) <= 600


def test_integers_are_no_weights(state: State, tmp_path: Path) -> None:
    torch.save({**state, "backbone.bn1.bias": torch.ones(32, dtype=torch.int8)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"found 1 not float32: backbone.bn1.bias \(int8\)"):
        create_model("lite0", weights=tmp_path / "x.pth")
    found = inspect_file(tmp_path / "x.pth")
    assert any("1 not float32: backbone.bn1.bias (int8)" in problem for problem in found.problems)


def test_an_averaged_model(tmp_path: Path) -> None:
    model = create_model("lite0")
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for place, content in enumerate((averaged.state_dict(), {"epoch": 3, "swa": averaged.state_dict()})):
        torch.save(content, tmp_path / f"{place}.pth")
        note = "left out n_averaged, which a bench or an averaging wrapper had added|took the "
        loaded_with_note(tmp_path / f"{place}.pth", model.state_dict(), note)


def test_a_program_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pth")
    for read in (read_weights, inspect_file):
        with pytest.raises(InputError, match=r"found a TorchScript program.* m = torch.jit.load\('x.pth'\)") as caught:
            read(tmp_path / "x.pth")
        assert len(str(caught.value)) <= 600


def test_content_under_the_name_of_another_kind(state: State, tmp_path: Path) -> None:
    """The name says where metadata lie, so it has to be right."""
    save_file(state, tmp_path / "x.pth")
    torch.save(state, tmp_path / "y.safetensors")
    for name, message in (
        ("x.pth", "found a safetensors file; rename it to x.safetensors"),
        ("y.safetensors", "found one that torch.save wrote; rename it to y.pth"),
    ):
        for read in (read_weights, read_metadata, inspect_file):
            with pytest.raises(InputError, match=message):
                read(tmp_path / name)


def test_a_header_whose_length_begins_as_a_pickle_does(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (0x0280, 0x0480, 0x0380, 0x0180):
        header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
        path.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
        assert list(read_tensors(path)) == ["a"] and read_metadata(path) is None
        with WeightFile(path) as file:
            assert file.dialect == "safetensors"


@pytest.mark.parametrize(("content", "found"), [(b"", "an empty file"), (b"hello", "another kind of content")])
def test_what_no_framework_wrote(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=f"expected a PyTorch state_dict of plain tensors, found: {found}; the file"):
        read_weights(tmp_path / "x.pth")
