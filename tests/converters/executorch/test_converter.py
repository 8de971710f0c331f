"""ExecuTorch: what is lowered, what the file holds, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
import torch

import converters.executorch.converter as converter_module
from converters.executorch.converter import CONVERTER, ExecuTorchOptions, shared_node_origins
from edgevit.artifacts.artifact import file_entries
from edgevit.deploy.cost_model import read_costs
from edgevit.deploy.pass_manager import deploy
from edgevit.deploy.passes.split_depthwise import cheapest_split
from edgevit.errors import ContractError, ConversionError, DeviceError, UsageError
from edgevit.export.export_program import export
from tests.edgevit.contract.test_manifest import make_manifest
from tests.tiny import TinyClassifier, classifier_spec, seeded, segmenter_spec
from tests.untranslatable import Untranslatable


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder, Converted and manifest of TinyClassifier."""
    folder = tmp_path_factory.mktemp("executorch")
    module, _ = deploy(seeded(TinyClassifier), classifier_spec())
    result = CONVERTER.convert(export(module, classifier_spec()), ExecuTorchOptions(), folder)
    manifest = dataclasses.replace(
        make_manifest(),
        inputs=result.inputs,
        outputs=result.outputs,
        files=file_entries(folder),
        lowering=result.lowering,
    )
    return folder, result, manifest


def test_shared_node_origins_change_no_byte_and_leave_torch_as_it_was(converted, tmp_path, monkeypatch):
    from torch.fx.traceback import NodeSource

    folder, _, _ = converted
    assert not hasattr(NodeSource, "__deepcopy__")
    monkeypatch.setattr(converter_module, "shared_node_origins", contextlib.nullcontext)
    module, _ = deploy(seeded(TinyClassifier), classifier_spec())
    CONVERTER.convert(export(module, classifier_spec()), ExecuTorchOptions(), tmp_path)
    assert (tmp_path / "model.pte").read_bytes() == (folder / "model.pte").read_bytes()


def test_nodes_share_their_origins_while_lowering():
    from torch.fx.traceback import NodeSource

    origin = NodeSource(None)
    with shared_node_origins():
        assert copy.deepcopy([origin])[0] is origin
    assert copy.deepcopy([origin])[0] is not origin


def test_everything_is_delegated_and_counted(converted):
    _, result, _ = converted
    assert result.lowering.regions == 1
    assert result.lowering.outside == {}
    assert result.lowering.delegated == result.lowering.nodes == sum(result.lowering.ops.values())
    # The stem and the pieces of the 7x7 depthwise kernel, with an addition between each two of them.
    pieces = len(cheapest_split(7, 7, read_costs(CONVERTER.kernels)))
    assert pieces > 1
    assert result.lowering.ops["aten.convolution.default"] == 1 + pieces
    assert result.lowering.transposes == 1  # the input, which is given in NCHW


def test_runs_like_torch_and_keeps_names(converted):
    folder, _, manifest = converted
    session = CONVERTER.open(folder, manifest, threads=1)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    first = session.run({"image": x.numpy()})["logits"]
    again = session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})["logits"]
    assert np.abs(first - seeded(TinyClassifier)(x).detach().numpy()).max() < 1e-5  # and not overwritten by `again`
    assert not np.allclose(first, again)
    assert session.threads == 1
    assert session.runtime.startswith("executorch 1.")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixels": np.zeros((1, 3, 32, 32), np.float32)}, "no input 'pixels'"),
        ({"image": np.zeros((1, 3, 32, 31), np.float32)}, r"must be float32 \(1, 3, 32, 32\)"),
        ({"image": np.zeros((1, 3, 32, 32), np.float64)}, "float64"),
    ],
)
def test_wrong_input_is_refused(converted, inputs, message):
    folder, _, manifest = converted
    with pytest.raises(UsageError, match=message):
        CONVERTER.open(folder, manifest).run(inputs)


def test_check_reads_the_file(converted):
    folder, _, manifest = converted
    facts = CONVERTER.check(folder, manifest)
    assert facts["inputs"] == "[(1, 3, 32, 32)]"
    with pytest.raises(ContractError, match="its manifest says"):
        CONVERTER.check(folder, dataclasses.replace(manifest, outputs=segmenter_spec().outputs))


def test_file_that_is_none_is_refused(converted, tmp_path):
    _, _, manifest = converted
    (tmp_path / "model.pte").write_bytes(b"not a program at all")
    with pytest.raises(ContractError, match="is not an ExecuTorch program"):
        CONVERTER.check(tmp_path, manifest)
    with pytest.raises(DeviceError, match="cannot load"):
        CONVERTER.open(tmp_path, manifest)


def test_truncated_file_is_a_device_error(converted, tmp_path):
    folder, _, manifest = converted
    data = (folder / "model.pte").read_bytes()
    (tmp_path / "model.pte").write_bytes(data[: len(data) // 2])
    with pytest.raises((DeviceError, ContractError)):
        CONVERTER.open(tmp_path, manifest).run({"image": np.zeros((1, 3, 32, 32), np.float32)})


def test_ops_without_a_kernel_are_all_named_with_their_modules(tmp_path):
    program = export(Untranslatable().eval(), classifier_spec())
    with pytest.raises(ConversionError, match="no kernel for 2 op") as caught:
        CONVERTER.convert(program, ExecuTorchOptions(), tmp_path)
    for word in ("special_bessel_j0", "digamma", "at "):
        assert word in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_other_accelerators_are_refused(converted):
    folder, _, manifest = converted
    with pytest.raises(UsageError, match="not on 'gpu'"):
        CONVERTER.open(folder, manifest, accelerator="gpu")
