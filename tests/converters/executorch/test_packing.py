"""Packed weights in .pte files: names that identify their packing, and files right for any weights cache."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.executorch import converter as executorch
from converters.executorch.packing import PACKED, _packings
from converters.executorch.pte_reader import read_contents, values_of
from edgevit.deploy.pass_manager import deploy
from edgevit.export.export_program import export
from edgevit.export.program import Program
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.quantized_model import Int8Network, prepare
from edgevit.quantization.weight_only import rounded_program
from edgevit.spec import Precision
from tests.phone_networks import WIDTH, network
from tests.tiny import classifier_spec

# Runs files one after the other and prints, for each, what became of its outputs with the weights cache on: all models
# stay open, so that everything that one of them packed is there when the next is loaded.
OPEN_TOGETHER = """
import json, sys
from pathlib import Path
import numpy as np
from converters.executorch.converter import CONVERTER
files = [Path(name) for name in sys.argv[1:]]
def outputs(path, session):
    file = CONVERTER.describe(path)
    noise = [np.random.default_rng(seed).normal(size=file.inputs[0].shape).astype("f4") for seed in range(4)]
    return np.stack([session.run({"input0": x})["output0"] for x in noise])
off, on = ({"weights_cache": cache, "workspace_sharing": "global", "load": "mmap"} for cache in ("off", "on"))
CONVERTER.switch(off)
wanted = [outputs(path, CONVERTER.open(path.parent, CONVERTER.describe(path))) for path in files]
CONVERTER.switch(on)
opened = [CONVERTER.open(path.parent, CONVERTER.describe(path)) for path in files]
found = [outputs(path, session) for path, session in zip(files, opened)]
print(json.dumps([int((a != b).sum()) for a, b in zip(found, wanted)]))
"""


def _program(name: str, precision: Precision = Precision.FP32) -> Program:
    return export(deploy(network(name), classifier_spec())[0], classifier_spec(), precision=precision)


def _int8_program(name: str, images: int = 8) -> Program:
    """The network in int8 on ranges that so many images set: another number makes another version of it."""
    generator = torch.Generator().manual_seed(1)
    deployed, steps = prepare(network(name), classifier_spec())
    tensors = [2 * torch.randn(1, 3, 32, 32, generator=generator) for _ in range(images)]
    int8 = Int8Network.settled(*calibrate(deployed, tensors), steps)
    return export(int8.module(), classifier_spec(), precision=Precision.INT8)


def _written(program: Program, folder: Path, **options: str) -> Path:
    folder.mkdir()
    return folder / executorch.CONVERTER.convert(program, executorch.CONVERTER.Options(**options), folder).entry


def _baseline(name: str, folder: Path) -> Path:
    """The network as ExecuTorch's own recipe writes it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    folder.mkdir()
    exported = torch.export.export(network(name), (torch.zeros(1, 3, 32, 32),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (folder / "model.pte").write_bytes(lowered.to_executorch().buffer)
    return folder / "model.pte"


FORMS = {
    "fp32": lambda name: _program(name),
    "fp16": lambda name: _program(name, Precision.FP16),
    "int8": lambda name: _int8_program(name),
    "int8 weights": lambda name: rounded_program(_program(name)),
}
CASES = (
    *itertools.product(("scaled", "slopes"), FORMS),
    *itertools.product(("repeated", "broken"), ("fp32", "int8")),
    ("vectors", "fp32"),
    ("tied", "fp32"),
    ("without_biases", "int8"),
    ("without_biases", "int8 weights"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """By name: a baseline file without faults, another int8 version of a network, then ours."""
    folder = tmp_path_factory.mktemp("files")
    found = {"stock": _baseline("repeated", folder / "stock")}
    found["another version"] = _written(_int8_program("scaled", images=2), folder / "another")
    for name, form in CASES:
        options = {"weight_compression": "int8"} if form == "int8 weights" else {}
        found[f"{name} {form}"] = _written(FORMS[form](name), folder / f"{name}-{form}", **options)
    return found


def test_files_are_right_with_the_weights_cache_whatever_else_is_open(files):
    names = sorted(files, key=lambda name: name not in ("stock", "another version"))
    argv = [sys.executable, "-W", "ignore", "-c", OPEN_TOGETHER, *(str(files[name]) for name in names)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert dict(zip(names, json.loads(done.stdout.splitlines()[-1]), strict=True)) == dict.fromkeys(names, 0)


def test_audit_finds_every_weight_of_ours_named_by_its_packing_and_nothing_read_in_place(files):
    for name, path in files.items():
        found = executorch.CONVERTER.audit(path)
        assert found.faults == (), name
        assert ("all named" in found.summary) == (name != "stock"), name


def test_weight_that_is_read_under_two_qparams_becomes_two_and_one_packed_alike_stays_one(files):
    assert len(_names(files["repeated fp32"], "Conv2d")) == 2  # the stem's, and that of all three uses
    assert len(_names(files["repeated int8"], "Conv2d")) == 1 + 3
    assert len(_names(files["broken fp32"], "Conv2d")) == 2  # one of them in two delegates


def _names(path: Path, kind: str) -> set[str]:
    """Names of the weights of a kind of layer in all delegates of a file."""
    found = set()
    for delegate in read_contents(path).delegates:
        values = values_of(delegate.graph)
        for entry in delegate.graph["xnodes"]:
            if entry["xnode_union_type"] == f"XNN{kind}":
                weight = values[entry["xnode_union"]["filter_id"]]
                found.add(delegate.key(weight.tensor["constant_buffer_idx"]))
    return found


def test_equal_layer_scales_share_bytes_but_no_name(files):
    """Quantized by channel, all of them are 127: this is what went wrong on phones."""
    scales = {}
    for delegate in read_contents(files["scaled int8"]).delegates:
        values = values_of(delegate.graph)
        for layer in (entry["xnode_union"] for entry in delegate.graph["xnodes"]):
            if layer.get("groups", 1) > 1 and layer["kernel_height"] == 1:
                index = values[layer["filter_id"]].tensor["constant_buffer_idx"]
                scales[delegate.key(index)] = delegate.constant(index)
    assert len(scales) > 1
    assert set(scales.values()) == {b"\x7f" * WIDTH}


def test_two_conversions_in_two_processes_give_equal_bytes(files, tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.converters.executorch.test_packing import _int8_program, _written\n"
        "_written(_int8_program('broken'), Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, tmp_path / "again"], check=True, timeout=300)
    assert (tmp_path / "again/model.pte").read_bytes() == files["broken int8"].read_bytes()


def test_audit_names_slopes_that_a_stock_file_reads_in_place(tmp_path):
    found = executorch.CONVERTER.audit(_baseline("broken", tmp_path / "stock"))
    (fault,) = found.faults
    assert fault.startswith("constants that are freed once the file is loaded are read in place: PReLU ")


def test_audit_names_layers_that_would_take_each_others_packing(monkeypatch, tmp_path):
    """The file as it was made before weights had names of their own."""
    monkeypatch.setattr(executorch, "name_packed_weights", lambda graph, store: None)
    found = executorch.CONVERTER.audit(_written(_int8_program("scaled"), tmp_path / "old"))
    (fault,) = found.faults
    assert fault.startswith("layers that are packed differently have one name for their packed weights: Depthwise")
    assert found.summary.endswith(" 0 named by their packing")


@pytest.mark.parametrize("name", ["scaled", "slopes", "broken"])
def test_files_hardly_grow_where_no_weight_becomes_two(files, name, monkeypatch, tmp_path):
    monkeypatch.setattr(executorch, "name_packed_weights", lambda graph, store: None)
    monkeypatch.setattr(executorch, "_SEGMENT_ALIGNMENT", 128)
    plain = _written(_program(name), tmp_path / name).stat().st_size
    assert files[f"{name} fp32"].stat().st_size <= 1.02 * plain


def test_bias_that_two_int8_layers_read_is_on_the_scale_of_each(files):
    """Stored once, it was on that of the first."""
    found = set()
    for delegate in read_contents(files["repeated int8"]).delegates:
        values = values_of(delegate.graph)
        for node in (entry["xnode_union"] for entry in delegate.graph["xnodes"] if "filter_id" in entry["xnode_union"]):
            source, weight, bias = (values[node[field]].qparams for field in ("input1_id", "filter_id", "bias_id"))
            factor = np.uint32(source["scale"]).view(np.float32)
            scales = [np.frombuffer(delegate.constant(one["scale_buffer_idx"]), "<f4") for one in (weight, bias)]
            assert np.allclose(scales[1], factor * scales[0], rtol=1e-6)
            found.add(node["bias_id"])
    assert len(found) == 1 + 3 + 2 + 1


def test_packing_tells_all_that_decides_it(files):
    """Each change of what decides a packing changes the name; what does not, leaves it."""
    delegate = read_contents(files["scaled int8"]).delegates[0]
    nodes = delegate.graph["xnodes"]
    place, layer = next((i, n["xnode_union"]) for i, n in enumerate(nodes) if n["xnode_union_type"] in PACKED)
    values = {v["xvalue_union"].get("tensor_value", v["xvalue_union"])["id_out"]: v for v in delegate.graph["xvalues"]}

    def digest() -> str:
        return next(packing.digest for index, packing in _packings(delegate.graph, delegate.constant) if index == place)

    before = digest()
    source, weight = (values[layer[field]]["xvalue_union"]["quant_params"] for field in ("input1_id", "filter_id"))
    result = values[layer["output_id"]]["xvalue_union"]["quant_params"]
    changes = [(source, "zero_point"), (source, "scale"), (result, "zero_point"), (weight, "channel_dim")]
    for part, field in [*changes, (layer, "groups"), (layer, "padding_top"), (layer, "flags")]:
        part[field] += 1
        assert digest() != before, field
        part[field] -= 1
    nodes[place]["output_min_max"] = {"output_min": 0, "output_max": 1}
    assert digest() == before
