"""Checkpoints: every container loads, nothing in a file runs, and an error says what to do."""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.checkpoints.checkpoint import load_weights, read_checkpoint, save_checkpoint
from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.errors import MissingDependency, StorageError, UsageError
from edgevit.spec import Interpolation, Preprocess


def tiny(classes: int = 10) -> nn.Sequential:
    """(N, 3, 4, 4) -> (N, classes), with a batch norm for its integer counter."""
    return nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def metadata(classes: int = 10) -> CheckpointMetadata:
    return CheckpointMetadata(
        model="tiny",
        num_classes=classes,
        input_size=4,
        labels=tuple(f"class {i}" for i in range(classes)),
        preprocess=Preprocess(resize=5, crop=(4, 4), interpolation=Interpolation.BICUBIC),
        edgevit_version="0.0",
        training={"epochs": 3, "curve": [{"loss": 0.5}]},
    )


def assert_same(actual: dict, expected: dict) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return tiny().state_dict()


@pytest.fixture(params=["zip", "stream"])
def saved(request: pytest.FixtureRequest, tmp_path: Path):
    """torch.save in both containers: saved(object) -> path."""

    def save(content: object) -> Path:
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return save


def zip_of(pickled: bytes, storages: dict[str, bytes], path: Path, **members: bytes) -> Path:
    """A zip checkpoint around a hand-made pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return path


# ---- containers


def test_plain_state_dict_loads_with_hash_of_the_file(saved, state):
    path = saved(state)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state_dict, state)
    assert checkpoint.metadata is None
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.path == path


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema"])
def test_weights_are_found_in_each_container(saved, state, key):
    assert_same(read_checkpoint(saved({key: state, "epoch": 3})).state_dict, state)


def test_nested_container_is_opened(saved, state):
    assert_same(read_checkpoint(saved({"model": {"state_dict": state}})).state_dict, state)


def test_average_is_taken_only_when_asked_or_alone(saved, state):
    average = {name: tensor + 1 for name, tensor in state.items()}
    path = saved({"state_dict_ema": average, "state_dict": state})
    assert_same(read_checkpoint(path).state_dict, state)
    assert_same(read_checkpoint(path, ema=True).state_dict, average)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefix_is_stripped_when_all_names_share_it(saved, state, prefix):
    path = saved({prefix + name: tensor for name, tensor in state.items()})
    assert_same(read_checkpoint(path).state_dict, state)


def test_wrapper_prefix_stays_when_one_name_lacks_it(saved, state):
    names = set(read_checkpoint(saved({"module.a": state["0.bias"], "b": state["0.bias"]})).state_dict)
    assert names == {"module.a", "b"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_floats_become_float32(tmp_path, dtype):
    path = tmp_path / "half.pt"
    torch.save({"w": torch.tensor([1.0, -2.0], dtype=dtype), "steps": torch.tensor(7)}, path)
    weights = read_checkpoint(path).state_dict
    assert weights["w"].dtype is torch.float32
    assert weights["w"].tolist() == [1.0, -2.0]
    assert weights["steps"].dtype is torch.int64
    assert weights["steps"].item() == 7


def test_views_parameters_and_empty_tensors_keep_their_values(saved):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "window": base[1:3, 2:4],
        "parameter": nn.Parameter(base[0]),
        "scalar": base[2, 3],
        "none": torch.empty(0, 3),
        "flags": base > 3,
    }
    loaded = read_checkpoint(saved(tensors)).state_dict
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach()), name


def test_training_checkpoint_with_foreign_objects_loads(saved, state):
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, data=Path("imagenet")),
        "best": np.float64(0.75),
        "history": collections.defaultdict(list, a=[1]),
        "rng": np.random.RandomState(0).get_state(),
        "names": {"a", "b"},
        "network": model,
    }
    assert_same(read_checkpoint(saved(content)).state_dict, state)


def test_python2_strings_decode(tmp_path):
    rng = b"\x80\x02}U\x03rngU\x02\xff\xfes"  # {"rng": a byte string that is no UTF-8}
    pickled = rng + b"U\x05model" + tensor(storage("FloatStorage", "0", 1), (1,), (1,))[:-1] + b"s."
    path = zip_of(pickled, {"0": struct.pack("<f", 5)}, tmp_path / "old.pth")
    assert read_checkpoint(path).state_dict["w"].tolist() == [5.0]


def test_safetensors_load(state, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({f"module.{name}": tensor for name, tensor in state.items()}, path)
    loaded = read_checkpoint(path).state_dict
    assert loaded.keys() == state.keys()
    assert torch.equal(loaded["0.weight"], state["0.weight"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"no whole \.safetensors"):
        read_checkpoint(path)


def test_safetensors_without_its_library_names_the_install(monkeypatch, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"x")
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependency, match="pip install safetensors"):
        read_checkpoint(tmp_path / "m.safetensors")


# ---- our own format


def test_saved_checkpoint_returns_metadata_and_weights_and_loads_in_plain_torch(tmp_path):
    model, path = tiny(), tmp_path / "new" / "tiny.pt"
    save_checkpoint(path, model, metadata())
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == metadata()
    assert_same(checkpoint.state_dict, model.state_dict())
    plain = torch.load(path, weights_only=True)
    assert json.loads(plain["edgevit_metadata"])["labels"][3] == "class 3"
    assert [file.name for file in path.parent.iterdir()] == ["tiny.pt"]


def test_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "tiny.pt"
    path.write_bytes(b"old")

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, tiny(), metadata())
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.pt"]
    assert path.read_bytes() == b"old"


def test_unwritable_folder_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write .*file/tiny\.pt"):
        save_checkpoint(tmp_path / "file" / "tiny.pt", tiny(), metadata())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": 1}', 7, None])
def test_malformed_metadata_is_reported(tmp_path, state, text):
    torch.save({"edgevit_card": text, "state_dict": state}, tmp_path / "c.pt")
    with pytest.raises(UsageError, match="metadata is malformed"):
        read_checkpoint(tmp_path / "c.pt")


def test_metadata_wants_one_label_per_class():
    with pytest.raises(UsageError, match="1 labels for 2 classes"):
        CheckpointMetadata("m", 2, 4, ("a",), Preprocess(resize=4, crop=(4, 4)), "0.0")


# ---- files that are no checkpoint


def test_every_truncation_is_one_line_with_the_path(saved, state):
    path = saved(state)
    whole = path.read_bytes()
    for size in [0, 1, 2, 3, 10, 100, *range(200, len(whole), 211), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UsageError, match=r"cannot read checkpoint .*checkpoint\.pth: ") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value), size
        assert caught.value.fix, size


def test_flipped_bytes_load_or_are_reported(saved, state):
    path = saved(state)
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        with contextlib.suppress(UsageError):  # any other exception fails the test
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>", "not a file of torch.save"),
        (pickle.dumps({"a": 1}), "not a file of torch.save"),
        (b"PK\x03\x04 but no archive", "cut off or damaged"),
    ],
)
def test_other_files_are_named_as_such(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_checkpoint(path)


def test_missing_folder_and_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in [("none", "no checkpoint"), (".", "is a folder"), ("pipe", "not a regular file")]:
        with pytest.raises(UsageError, match=message):
            read_checkpoint(tmp_path / path)


@pytest.mark.parametrize(
    "content", [nn.Linear(2, 2), [1, 2], {"epoch": 3}, {}, {"model": nn.Linear(2, 2)}, {3: torch.ones(1)}]
)
def test_content_without_weights_names_the_fix(saved, content):
    with pytest.raises(UsageError, match=r"state_dict\(\)"):
        read_checkpoint(saved(content))


def test_entry_that_is_no_tensor_is_named(saved):
    with pytest.raises(UsageError, match="no dense tensors: scale; table"):
        read_checkpoint(saved({"w": torch.ones(2), "scale": 3.0, "table": torch.eye(2).to_sparse()}))


def test_torchscript_and_tar_are_refused_with_a_fix(tmp_path):
    path = zip_of(b"N.", {}, tmp_path / "script.pt", **{"constants.pkl": b"N."})
    with pytest.raises(UsageError, match=r"TorchScript.*state_dict"):
        read_checkpoint(path)
    with tarfile.open(tmp_path / "old.pt", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(UsageError, match="tar format"):
        read_checkpoint(tmp_path / "old.pt")


def test_compressed_archive_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UsageError, match="compressed"):
        read_checkpoint(tmp_path / "b.pt")


# ---- hostile files


class Call:
    """Pickles as function(*args), with optional state for BUILD."""

    def __init__(self, function, *args, state=None) -> None:
        self.parts = (function, args, state)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    "wrap", [lambda bomb: bomb, lambda bomb: {"model": {"w": bomb}}, lambda bomb: {"w": torch.ones(1), "x": bomb}]
)
def test_calls_in_the_pickle_do_not_run(saved, tmp_path, wrap):
    sentinel = tmp_path / "ran"
    code = f"open({str(sentinel)!r}, 'w')"
    bombs = [
        Call(os.system, f"touch {sentinel}"),
        Call(eval, code),
        Call(exec, code),
        Call(open, str(sentinel), "w"),
        Call(Path.touch, sentinel),
        Call(Call, Call(getattr, Call(__import__, "os"), "system"), f"touch {sentinel}"),
        Call(torch.load, str(sentinel)),
        Call(collections.OrderedDict, state={"__setstate__": Call(eval, code)}),
    ]
    for bomb in bombs:
        with pytest.raises(UsageError):
            read_checkpoint(saved(wrap(bomb)))
        assert not sentinel.exists(), bomb.parts


def test_control_the_same_file_runs_its_call_in_plain_torch(saved, tmp_path):
    path = saved(Call(os.system, f"touch {tmp_path / 'ran'}"))
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_called_result_of_an_unknown_name_stays_inert(tmp_path):
    sentinel = tmp_path / "ran"
    # getattr(os, "system")("touch sentinel"), as opcodes: REDUCE on what a REDUCE returned
    pickled = b"cbuiltins\ngetattr\n(cos\npath\nVsystem\ntR(Vtouch " + str(sentinel).encode() + b"\ntR."
    with pytest.raises(UsageError, match="not weights"):
        read_checkpoint(zip_of(pickled, {}, tmp_path / "c.pth"))
    assert not sentinel.exists()


def test_state_for_an_allowed_function_changes_nothing(tmp_path, state):
    # BUILD with slots {"_function": 1, "__defaults__": 1} on the tensor builder, on a dtype, on a mapping class
    slots = b"(N(dV_function\nK\x01sV__defaults__\nK\x01stb"
    for target in [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nfloat32\n", b"ccollections\nOrderedDict\n"]:
        with pytest.raises(UsageError):
            read_checkpoint(zip_of(target + slots + b".", {}, tmp_path / "c.pth"))
    torch.save(state, tmp_path / "good.pth")
    assert_same(read_checkpoint(tmp_path / "good.pth").state_dict, state)


def storage(dtype: str, key: str, count: int) -> bytes:
    """Opcodes that push a storage: ("storage", dtype, key, "cpu", count) and BINPERSID."""
    return f"(Vstorage\nctorch\n{dtype}\nV{key}\nVcpu\nI{count}\ntQ".encode()


def tensor(of: bytes, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Opcodes that push {"w": a float tensor over the storage `of`}."""
    numbers = ["(" + "".join(f"L{value}L\n" for value in values) + "t" for values in (shape, stride)]
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return b"(dVw\n" + rebuild + of + f"I{offset}\n{numbers[0]}{numbers[1]}".encode() + b"I00\n(dtRs."


def test_handmade_tensor_loads(tmp_path):
    pickled = tensor(storage("FloatStorage", "0", 4), (2,), (2,), offset=1)
    path = zip_of(pickled, {"0": struct.pack("<4f", 1, 2, 3, 4)}, tmp_path / "c.pth")
    assert read_checkpoint(path).state_dict["w"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("count", "shape", "stride", "offset"),
    [
        (10**13, (10**13,), (1,), 0),  # a storage beyond the file
        (4, (5,), (1,), 0),  # a tensor beyond its storage
        (4, (2,), (1,), 3),
        (4, (2, 2), (10**30, 1), 0),
        (4, (1, 2), (10**30, 1), 0),
        (4, (0, 10**30), (1, 1), 0),
        (4, (10**12,), (0,), 0),  # one element repeated until memory is gone
        (4, (2,), (-1,), 1),
        (-4, (2,), (1,), 0),
    ],
)
def test_sizes_beyond_the_file_are_refused_before_memory_is_taken(tmp_path, count, shape, stride, offset):
    pickled = tensor(storage("FloatStorage", "0", count), shape, stride, offset)
    path = zip_of(pickled, {"0": struct.pack("<4f", 1, 2, 3, 4)}, tmp_path / "c.pth")
    with pytest.raises(UsageError, match="cannot read checkpoint"):
        read_checkpoint(path)


def test_stream_storage_larger_than_the_file_is_refused(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"w": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for count in (10**15, -1, 5):
        path.write_bytes(data[:-24] + struct.pack("<q", count) + data[-16:])
        with pytest.raises(UsageError, match="cut off"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}r\xff\xff\xff\xff.",  # LONG_BINPUT: CPython would fill a table of 2**32 memo slots
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # BYTEARRAY8 of 1 TiB
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",  # hashing this tower of tuples overflows the C stack
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
        b"\x80\x02\x82\x01.",  # EXT1: copyreg's registry
        b"\x80\x02}(X\x05\x00\x00\x00modelh\x00u.",
        b"(dp0\nVmodel\ng0\ns.",  # a mapping that contains itself
        b"\x80\x02(K\x01Q.",  # persistent ids of other shapes
        b"\x80\x02)Q.",
        b"ctorch._tensor\n_rebuild_from_type_v2\np0\n(g0\nN(lp1\ng0\naNag1\natR.",
    ],
)
def test_pickle_built_to_crash_the_reader_is_refused(tmp_path, pickled):
    with pytest.raises(UsageError, match="cannot read checkpoint"):
        read_checkpoint(zip_of(pickled, {}, tmp_path / "c.pth"))


def test_overlapping_members_are_refused(tmp_path):
    path = zip_of(b"N.", {"0": b"x" * 64}, tmp_path / "c.pth")
    data = path.read_bytes()
    directory = data.rindex(b"PK\x01\x02")  # the last entry, data/0
    huge = struct.pack("<I", 1 << 30)
    path.write_bytes(data[: directory + 20] + huge + huge + data[directory + 28 :])
    with pytest.raises(UsageError, match="overlap"):
        read_checkpoint(path)


# ---- into a model


def test_weights_reach_the_model_from_path_checkpoint_and_mapping(state, tmp_path):
    torch.save(state, tmp_path / "c.pt")
    for weights in (tmp_path / "c.pt", str(tmp_path / "c.pt"), read_checkpoint(tmp_path / "c.pt"), state):
        model = tiny()
        load_weights(model, weights)
        assert_same(model.state_dict(), state)


def test_missing_batch_counter_is_fine(state):
    del state["1.num_batches_tracked"]
    model = tiny()
    load_weights(model, state)
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])


def test_mismatch_lists_each_kind_and_leaves_the_model_alone(state):
    state["extra"] = state.pop("1.bias")
    state["0.weight"] = torch.ones(4, 3, 2, 2)
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(model, state)
    assert caught.value.message == (
        "the weights do not fit Sequential: 1 missing (1.bias); 1 unexpected (extra); "
        "1 wrongly shaped (0.weight: have (4, 3, 2, 2), need (4, 3, 4, 4))"
    )
    assert_same(model.state_dict(), before)


def test_long_mismatch_is_cut_with_its_count():
    with pytest.raises(UsageError, match=r"11 unexpected \(k0; .*; k7; and 3 more\)"):
        load_weights(nn.Identity(), {f"k{i}": torch.ones(1) for i in range(11)})


def test_other_class_count_replaces_the_head_only_when_asked(state, caplog):
    model = tiny(classes=3)
    head = model[3].weight.detach().clone()
    with pytest.raises(UsageError, match=r"3\.weight: have \(10, 4\), need \(3, 4\).*new head"):
        load_weights(model, state)
    with caplog.at_level("INFO"):
        load_weights(model, state, replace_head=True)
    assert torch.equal(model[3].weight, head)
    assert torch.equal(model[0].weight, state["0.weight"])
    assert "new head for 3 classes: 3.weight, 3.bias" in caplog.text


def test_replace_head_does_not_hide_other_mismatches(state):
    state["0.bias"] = torch.ones(5)
    with pytest.raises(UsageError, match="3 wrongly shaped") as caught:
        load_weights(tiny(classes=3), state, replace_head=True)
    assert "new head" not in str(caught.value)


def test_replace_head_loads_a_head_that_fits(state):
    model = tiny()
    load_weights(model, state, replace_head=True)
    assert torch.equal(model[3].weight, state["3.weight"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(state, value):
    state["3.bias"][2] = value
    with pytest.raises(UsageError, match=r"not finite in 1 tensors \(3\.bias\)"):
        load_weights(tiny(), state)
