"""Int8 checkpoints outlive the version that wrote them: committed ones load and convert with any passes."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

import edgevit
from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.deploy import pass_manager
from edgevit.errors import QuantizationError
from edgevit.graph.capture import example_input
from edgevit.quantization import quantized_model
from edgevit.quantization.loading import quantized_network
from edgevit.targets.registry import get_converter
from tests.golden.make_int8_checkpoints import FOLDER, SIZES
from tests.tiny import TinyClassifier, classifier_spec, seeded

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")


class _Renaming:
    """A pass of a later version: it leaves no node the name that it had."""

    name = "rename_everything"

    def apply(self, graph, costs):
        for index, node in enumerate(graph.module.graph.nodes):
            if node.op not in ("placeholder", "output"):
                node.name = f"later_{index}"
        return []


@pytest.fixture
def later(monkeypatch):
    """A later version of the deploy passes: nothing that they make has a name of today."""
    monkeypatch.setattr(pass_manager, "PASSES", (*pass_manager.PASSES, _Renaming()))
    monkeypatch.setattr(quantized_model, "INT8_PASSES", (*quantized_model.INT8_PASSES, _Renaming()))


def test_a_later_version_names_every_node_anew(later):
    deployed, _ = quantized_model.prepare(seeded(TinyClassifier), classifier_spec())
    assert {node.name.partition("_")[0] for node in deployed.graph.nodes if node.op == "call_function"} == {"later"}


@pytest.mark.parametrize("name", SIZES)
def test_stored_checkpoint_converts_to_the_same_network(name, later, tmp_path):
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    path = _unpacked(name, tmp_path)
    network = quantized_network(read_checkpoint(path))
    assert {key: [q.scale, q.zero_point] for key, q in network.table.activations.items()} == facts["activations"]
    image = example_input((1, 3, SIZES[name], SIZES[name]), seed=facts["input_seed"])
    with torch.no_grad():
        outputs = network.reference()(image).flatten()[:64].numpy()
    wanted = np.array(facts["outputs"], np.float32)
    assert np.abs(outputs - wanted).max() <= 1e-5 * np.abs(wanted).max()
    artifact = edgevit.convert(name, weights=path, target="tflite", precision="int8", out=tmp_path)
    held = get_converter("tflite").read_qparams(artifact.path, artifact.manifest)
    stored = {(q.scale, q.zero_point) for q in held.activations.values()}
    assert stored == {(scale, zero_point) for scale, zero_point in facts["activations"].values()}
    session = artifact.open()
    try:
        layout = artifact.manifest.inputs[0].layout
        given = image.numpy().transpose(0, 2, 3, 1) if layout == "NHWC" else image.numpy()
        (result,) = session.run({artifact.manifest.inputs[0].name: np.ascontiguousarray(given)}).values()
    finally:
        session.close()
    if artifact.manifest.outputs[0].layout == "NHWC":
        result = result.transpose(0, 3, 1, 2)
    noise = np.square(result.flatten()[:64] - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / max(noise, 1e-30)) > 25


def test_int8_checkpoint_without_its_graph_is_refused_in_one_line(tmp_path):
    (name, *_) = SIZES
    content = torch.load(_unpacked(name, tmp_path), weights_only=True)
    del content["edgevit_int8_graph"]
    content["edgevit_card"] = content.pop("edgevit_metadata")
    torch.save(content, tmp_path / "old.pt")
    with pytest.raises(
        QuantizationError, match=r"old\.pt is an int8 checkpoint of an edgevit that did not store"
    ) as old:
        edgevit.convert(name, weights=tmp_path / "old.pt", target="tflite", precision="int8", out=tmp_path)
    assert "edgevit quantize MODEL" in old.value.fix
    assert "\n" not in str(old.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"format": 1', '"format": 2', "has format 2, this edgevit reads 1"),
        ("aten.conv2d.default", "aten.from_file.default", "no operation of a deployed graph"),
        ("aten.conv2d.default", "aten.add_.Tensor", "no operation of a deployed graph"),
        ('{"node": "', '{"node": "stranger_', "damaged"),
        ('{"name": ', '{"nome": ', "damaged"),
        ("{", "[", "damaged"),
    ],
)
def test_graph_that_was_changed_is_refused(old, new, says, tmp_path):
    (name, *_) = SIZES
    content = torch.load(_unpacked(name, tmp_path), weights_only=True)
    assert old in content["edgevit_int8_graph"]
    content["edgevit_int8_graph"] = content["edgevit_int8_graph"].replace(old, new)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(QuantizationError, match=says):
        quantized_network(read_checkpoint(tmp_path / "changed.pt"))


def test_names_in_a_checkpoint_never_become_code(tmp_path):
    """torch writes the names of tensors into the Python code of a graph, as they are."""
    (name, *_) = SIZES
    content = torch.load(_unpacked(name, tmp_path), weights_only=True)
    graph = json.loads(content["edgevit_int8_graph"])
    made = tmp_path / "made"
    code = f'zz", open("{made}", "w") and "'
    key = graph["graph"]["parameters"][0]
    graph["graph"]["parameters"][0] = code
    for node in graph["graph"]["nodes"]:
        if node.get("constant") == key:
            node["constant"] = code
    part = content["edgevit_int8"]
    old = next(stored for stored in (f"float.{key}", key) if stored in part)
    part[old.replace(key, code)] = part.pop(old)
    content["edgevit_int8_graph"] = json.dumps(graph)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(QuantizationError, match="is no path of a tensor"):
        quantized_network(read_checkpoint(tmp_path / "changed.pt"))
    assert not made.exists()


def _first(graph, **wanted):
    return next(
        node for node in graph["graph"]["nodes"] if all(node.get(key) == value for key, value in wanted.items())
    )


def _rename_input(graph):
    old = graph["graph"]["nodes"][0]["name"]
    return json.loads(json.dumps(graph).replace(f'"{old}"', '"self"'))


def _without_arguments(graph):
    node = _first(graph, name=graph["annotation"]["weighted"][0])
    node["arguments"] = node["arguments"][:1]
    return graph


def _negative_padding(graph):
    node = _first(graph, operation="aten.conv2d.default")
    node["arguments"] = [*node["arguments"][:4], [-9, -9], *node["arguments"][5:]][:7]
    return graph


def _twice_the_output(graph):
    graph["graph"]["nodes"][-1]["outputs"] *= 2
    return graph


def _scale(value, zero=0):
    def change(graph):
        graph["activations"][next(iter(graph["activations"]))] = [value, zero]
        return graph

    return change


_CHANGES = {
    "input called self": _rename_input,
    "argument missing": _without_arguments,
    "negative padding": _negative_padding,
    "two outputs": _twice_the_output,
    "infinite scale": _scale(float("inf")),
    "scale as text": _scale("0.5"),
    "huge scale": _scale(10**400),
    "half a zero point": _scale(0.5, 0.5),
    "true as scale": _scale(True),
    "huge zero point": _scale(0.5, 10**400),
    "true as format": lambda graph: graph | {"format": True},
}


@pytest.mark.parametrize("what", _CHANGES)
def test_graph_that_does_not_run_is_refused_in_one_line(what, tmp_path):
    (name, *_) = SIZES
    content = torch.load(_unpacked(name, tmp_path), weights_only=True)
    content["edgevit_int8_graph"] = json.dumps(_CHANGES[what](json.loads(content["edgevit_int8_graph"])))
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(QuantizationError) as refused:
        quantized_network(read_checkpoint(tmp_path / "changed.pt"))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert refused.value.fix


def _unpacked(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.pt.xz").read_bytes()))
    return path
