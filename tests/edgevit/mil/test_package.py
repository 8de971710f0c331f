"""Reading packages: values as coremltools' own library stores them, and clear refusals of malformed ones."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgevit.compat.coremltools import open_coremltools
from edgevit.errors import ContractError
from edgevit.mil.package import DATA_TYPES, WeightFile, body, open_package, walk
from tests.edgevit.mil.packages import DATA, PROGRAM, ROOT, WEIGHTS, Builder, set_type, small


def _constants(package, function="main"):
    block = body(package.functions[function])
    return {op.outputs[0].name: package.constant(op.attributes["val"]) for op in walk(block) if op.type == "const"}


@pytest.fixture(scope="module")
def storage():
    """coremltools' native writer of weight files."""
    open_coremltools()
    return importlib.import_module("coremltools.libmilstoragepython")


STORED = [
    ("fp16", "write_fp16_data", np.float16),
    ("fp32", "write_float_data", np.float32),
    ("int8", "write_int8_data", np.int8),
    ("uint8", "write_uint8_data", np.uint8),
    ("int16", "write_int16_data", np.int16),
    ("uint16", "write_uint16_data", np.uint16),
    ("int32", "write_int32_data", np.int32),
    ("uint32", "write_uint32_data", np.uint32),
    ("int4", "write_int4_data", np.int8),
    ("uint1", "write_uint1_data", np.uint8),
    ("uint2", "write_uint2_data", np.uint8),
    ("uint3", "write_uint3_data", np.uint8),
    ("uint4", "write_uint4_data", np.uint8),
    ("uint6", "write_uint6_data", np.uint8),
]


@pytest.mark.parametrize("count", [1, 7, 8, 1001])
@pytest.mark.parametrize(("name", "write", "dtype"), STORED, ids=[row[0] for row in STORED])
def test_weights_are_what_coremltools_wrote(storage, tmp_path, name, write, dtype, count):
    kind = next(kind for kind in DATA_TYPES.values() if kind.name == name)
    low = -(1 << (kind.bits - 1)) if name.startswith("int") else 0
    values = np.random.default_rng(count).integers(low, low + (1 << kind.bits), count)
    values = values.astype(dtype) if np.issubdtype(dtype, np.integer) else (values / 7).astype(dtype)
    writer = storage._BlobStorageWriter(str(tmp_path / "weight.bin"))
    stored = values.view(np.uint16) if name == "fp16" else values
    offsets = [getattr(writer, write)(stored), getattr(writer, write)(stored[::-1].copy())]
    del writer
    file = WeightFile(tmp_path / "weight.bin")
    np.testing.assert_array_equal(file.read(offsets[0], kind, count), values)
    np.testing.assert_array_equal(file.read(offsets[1], kind, count), values[::-1])
    assert file.read(offsets[0], kind, count).dtype == values.dtype


def test_large_packed_weights_are_unpacked_in_pieces(storage, tmp_path, monkeypatch):
    monkeypatch.setattr("edgevit.mil.package._UNPACK_VALUES", 16)
    values = np.random.default_rng(0).integers(0, 8, 1003).astype(np.uint8)
    writer = storage._BlobStorageWriter(str(tmp_path / "weight.bin"))
    offset = writer.write_uint3_data(values)
    del writer
    np.testing.assert_array_equal(WeightFile(tmp_path / "weight.bin").read(offset, DATA_TYPES[39], 1003), values)


def test_inline_values_keep_type_and_shape(tmp_path):
    build = Builder()
    contents = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([1.5, -2.25], np.float16),
        "whole": np.int32(-7),
        "flag": np.bool_(True),
        "word": "EXACT",
        "bytes": np.array([[-3, 4]], np.int8),
        "none": np.zeros((0, 3), np.float32),
        "words": np.array(["a", "b"]),
    }
    for name, content in contents.items():
        build.const(name, content)
    found = _constants(open_package(build.write(tmp_path / "m.mlpackage")))
    assert found["word"] == "EXACT"
    assert found["flag"] is True
    assert found["whole"] == -7
    assert found["whole"].dtype == np.int32
    assert list(found["words"]) == ["a", "b"]
    for name in ("matrix", "half", "bytes", "none"):
        np.testing.assert_array_equal(found[name], contents[name])
        assert (found[name].dtype, found[name].shape) == (contents[name].dtype, contents[name].shape)


def test_packed_inline_values_are_unpacked_low_bits_first(tmp_path):
    build = Builder()
    build.const("palette", np.array([0x21, 0xF3], np.uint8))
    value = build.block.operations[0].attributes["val"]
    value.type.Clear()
    set_type(value.type, (3,), "int4")
    found = _constants(open_package(build.write(tmp_path / "m.mlpackage")))
    np.testing.assert_array_equal(found["palette"], np.array([1, 2, 3], np.int8))


def test_lists_and_dictionaries_become_python_ones(tmp_path):
    build = Builder()
    build.const("one", np.int32(1))
    item = build.block.operations[0].attributes["val"]
    build.const("many", np.int32(0))
    many = build.block.operations[1].attributes["val"].immediateValue
    many.list.values.extend([item, item])
    build.const("table", np.int32(0))
    pair = build.block.operations[2].attributes["val"].immediateValue.dictionary.values.add()
    pair.key.CopyFrom(item)
    pair.value.CopyFrom(item)
    found = _constants(open_package(build.write(tmp_path / "m.mlpackage")))
    assert found["many"] == [1, 1]
    assert found["table"] == {1: 1}


def test_opening_and_reading_leaves_every_file_alone(tmp_path):
    folder = small().write(tmp_path / "m.mlpackage")
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = _constants(open_package(folder))
    assert found["kernel"].shape == (6, 3, 3, 3)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_reading_imports_neither_coremltools_nor_torch(tmp_path):
    folder = small().write(tmp_path / "m.mlpackage")
    code = (
        "import sys; from edgevit.mil.package import open_package; open_package(sys.argv[1]);"
        "assert not {'torch', 'coremltools'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def _set_root(folder: Path, path: object) -> None:
    items = {ROOT: {"path": path}}
    (folder / "Manifest.json").write_text(json.dumps({"itemInfoEntries": items, "rootModelIdentifier": ROOT}))


@pytest.mark.parametrize(
    "path", ["../outside", "com.apple.CoreML/../../../x", "/etc/passwd", "", ".", "a\\b", "x" * 5000, "a\0b", 7, None]
)
def test_manifest_paths_stay_inside(tmp_path, path):
    folder = small().write(tmp_path / "m.mlpackage")
    (tmp_path / "outside").write_bytes(b"secret")
    _set_root(folder, path)
    with pytest.raises(ContractError, match=r"Manifest\.json"):
        open_package(folder)


@pytest.mark.parametrize("part", [DATA, PROGRAM, WEIGHTS, Path("Manifest.json"), DATA / "weights"])
def test_links_are_refused(tmp_path, part):
    folder = small().write(tmp_path / "m.mlpackage")
    os.rename(folder / part, tmp_path / "moved")
    (folder / part).symlink_to(tmp_path / "moved")
    with pytest.raises(ContractError, match=r"link|no Manifest\.json"):
        _constants(open_package(folder))


@pytest.mark.parametrize(
    "text",
    ["", "[", "[" * 100_000, "{}", "7", '{"itemInfoEntries": [], "rootModelIdentifier": 0}', "\xff", "1" * 10_000],
    ids=["empty", "cut off", "deep", "no keys", "number", "no entries", "not UTF-8", "huge number"],
)
def test_a_manifest_that_is_no_manifest_is_named(tmp_path, text):
    folder = small().write(tmp_path / "m.mlpackage")
    (folder / "Manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ContractError, match=r"Manifest\.json"):
        open_package(folder)


@pytest.mark.parametrize("part", [Path("Manifest.json"), PROGRAM])
def test_a_huge_file_is_refused_by_its_size(tmp_path, part):
    folder = small().write(tmp_path / "m.mlpackage")
    os.truncate(folder / part, 1 << 36)  # sparse: takes no space
    with pytest.raises(ContractError, match="at most"):
        open_package(folder)


def _refused(folder: Path, build: Builder, match: str) -> None:
    build.write(folder)
    with pytest.raises(ContractError, match=match) as caught:
        _constants(open_package(folder))
    assert str(folder) in caught.value.message


def _kernel(build):
    return build.block.operations[0].attributes["val"]


@pytest.mark.parametrize(
    ("offset", "match"),
    [(1 << 63, "ends at byte"), (10_000, "ends at byte"), (65, "no weight record"), (0, "no weight record")],
)
def test_offsets_outside_the_weight_file_are_refused(tmp_path, offset, match):
    build = small()
    _kernel(build).blobFileValue.offset = offset
    _refused(tmp_path / "m.mlpackage", build, match)


@pytest.mark.parametrize("name", ["/etc/passwd", "@model_path/../../../x", "weight.bin", "@model_path/none.bin", ""])
def test_weight_files_outside_the_package_are_refused(tmp_path, name):
    build = small()
    _kernel(build).blobFileValue.fileName = name
    _refused(tmp_path / "m.mlpackage", build, "weight file|which is not a path inside|no file")


@pytest.mark.parametrize(
    ("place", "content", "match"),
    [
        (8, 1 << 62, "are stored"),
        (16, 1 << 62, "would end"),
        (16, (1 << 64) - 1, "would end"),
        (0, 0, "no weight record"),
    ],
)
def test_weight_records_that_lie_are_refused(tmp_path, place, content, match):
    build = small()
    build.weights[64 + place : 72 + place] = content.to_bytes(8, "little")
    _refused(tmp_path / "m.mlpackage", build, match)


def test_type_of_the_record_must_be_the_declared_one(tmp_path):
    build = small()
    build.weights[68] = 14  # int32, of the same size as fp32
    _refused(tmp_path / "m.mlpackage", build, "type code 14, the program reads fp32")


@pytest.mark.parametrize("shape", [(6, 3, 3, 4), (1 << 40,), (0, 1 << 62), (1 << 31, 1 << 31), (1,) * 20])
def test_shapes_that_the_weights_do_not_have_are_refused(tmp_path, shape):
    build = small()
    _kernel(build).type.Clear()
    set_type(_kernel(build).type, shape, "fp32")
    _refused(tmp_path / "m.mlpackage", build, "absurd shape|are stored")


def test_inline_values_that_the_shape_does_not_have_are_refused(tmp_path):
    build = Builder()
    build.const("x", np.zeros(3, np.float32))
    value = build.block.operations[0].attributes["val"]
    value.type.tensorType.dimensions[0].constant.size = 1 << 30
    _refused(tmp_path / "m.mlpackage", build, "needs 1073741824 stored values, 3 are there")


def test_inline_values_of_another_kind_are_refused(tmp_path):
    build = Builder()
    build.const("x", np.array([300, 1], np.int32))
    value = build.block.operations[0].attributes["val"]
    value.type.tensorType.dataType = 21
    _refused(tmp_path / "a.mlpackage", build, "do not fit int8")
    value.type.tensorType.dataType = 2
    _refused(tmp_path / "b.mlpackage", build, "stored as ints")
    value.type.tensorType.dataType = 99
    _refused(tmp_path / "c.mlpackage", build, "element type 99")


def test_weights_that_overlap_without_end_are_refused(tmp_path):
    build = Builder()
    for index in range(40):
        build.const(f"w{index}", np.zeros(100, np.float32), blob=True)
    for index in range(40):  # every record claims the same data: all of the file
        start = 64 + index * 512
        build.weights[start + 8 : start + 24] = (len(build.weights) // 4 * 4).to_bytes(8, "little") + bytes(8)
        operation = build.block.operations[index]
        for declared in (operation.attributes["val"].type, operation.outputs[0].type):
            declared.tensorType.dimensions[0].constant.size = len(build.weights) // 4
    _refused(tmp_path / "m.mlpackage", build, "overlap")


def test_values_are_defined_before_their_use_and_once(tmp_path):
    cyclic = Builder()
    cyclic.op("relu", "a", (1,), x="b")
    cyclic.op("relu", "b", (1,), x="a")
    _refused(tmp_path / "a.mlpackage", cyclic, "relu 'a': uses 'b' before it is defined")
    itself = Builder()
    itself.op("relu", "a", (1,), x="a")
    _refused(tmp_path / "b.mlpackage", itself, "uses 'a' before")
    twice = Builder()
    twice.const("a", np.int32(1))
    twice.const("a", np.int32(1))
    _refused(tmp_path / "c.mlpackage", twice, "'a' is defined twice")
    nothing = Builder()
    nothing.block.outputs.append("gone")
    _refused(tmp_path / "d.mlpackage", nothing, "returns 'gone'")


def test_inner_blocks_see_outer_values_and_not_each_other(tmp_path):
    build = Builder()
    build.input("x", (1,))
    build.op("cond", "y", (1,), pred="x")
    for name in ("then", "otherwise"):
        inner = build.block.operations[0].blocks.add()
        inner.operations.add(type="relu").inputs["x"].arguments.add(name="x")
        inner.operations[0].outputs.add(name=name).type.CopyFrom(build.function.inputs[0].type)
        inner.outputs.append(name)
    open_package(build.write(tmp_path / "m.mlpackage"))
    build.block.operations[0].blocks[1].outputs[0] = "then"
    _refused(tmp_path / "m.mlpackage", build, "returns 'then'")


def test_absurd_intermediate_shapes_and_names_are_refused(tmp_path):
    build = Builder()
    build.input("x", (1,))
    build.op("relu", "big", (1 << 20, 1 << 20), x="x")
    _refused(tmp_path / "a.mlpackage", build, "'big' has the absurd shape 1048576 x 1048576")
    build = Builder()
    build.input("x\x1b[2J", (1,))
    _refused(tmp_path / "b.mlpackage", build, "a value is named")


def test_deep_nesting_is_refused(tmp_path):
    build = Builder()
    block = build.block
    for _ in range(60):
        block = block.operations.add(type="cond").blocks.add()
    _refused(tmp_path / "m.mlpackage", build, "is no Core ML model")


def test_other_model_types_and_empty_programs_are_refused(tmp_path):
    build = Builder()
    del build.spec.mlProgram.functions["main"]
    _refused(tmp_path / "a.mlpackage", build, "without functions")
    build.spec.neuralNetwork.SetInParent()
    _refused(tmp_path / "b.mlpackage", build, "holds neuralNetwork, not an ML Program")
    build = Builder()
    build.function.opset = "CoreML9"
    _refused(tmp_path / "c.mlpackage", build, "no block for its op set 'CoreML9'")


def test_folders_without_a_manifest_are_no_packages(tmp_path):
    with pytest.raises(ContractError, match=r"no \.mlpackage"):
        open_package(tmp_path / "absent")
