"""Invariants of a Program, and that it survives the way to another process."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from edgevit.errors import ExportError
from edgevit.export.export_program import export
from edgevit.export.program import load_program, save_program
from edgevit.graph.capture import capture, example_input, functional
from edgevit.graph.node_names import describe
from edgevit.spec import Precision
from tests.tiny import TinyClassifier, classifier_spec, seeded


def test_saved_program_computes_the_same(tmp_path):
    model = seeded(TinyClassifier)
    program = export(
        model, classifier_spec(), precision=Precision.FP16, labels=("a", "b", "c", "d", "e"), provenance={"k": 1}
    )
    save_program(program, tmp_path)
    loaded = load_program(tmp_path)
    (x,) = loaded.example_inputs
    assert torch.equal(loaded.exported.module()(x), model(x))
    assert (loaded.precision, loaded.labels, loaded.provenance) == (Precision.FP16, program.labels, {"k": 1})
    assert loaded.spec.inputs == program.spec.inputs
    assert loaded.spec.preprocess == program.spec.preprocess


def test_nodes_keep_their_module_paths():
    program = export(seeded(TinyClassifier), classifier_spec())
    named = [describe(node) for node in program.exported.graph.nodes if "conv2d" in str(node.target)]
    assert named == ["aten.conv2d.default at stem.0", "aten.conv2d.default at mix"]


class _RankSix(nn.Module):
    def forward(self, x):
        windows = x.reshape(1, 3, 2, 16, 2, 16).permute(0, 2, 4, 1, 3, 5)
        return windows.sum((1, 2, 3, 4, 5)).reshape(1, 1).expand(1, 5).contiguous()


class _Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.block = inner

    def forward(self, x):
        return self.block(x)


def test_rank_six_is_refused_with_op_and_module_path():
    with pytest.raises(ExportError, match=r"permute.* at block: rank 6, at most 5"):
        export(_Wrapped(_RankSix()), classifier_spec())


def _batches(model: nn.Module):
    captured = functional(capture(model, (example_input((1, 3, 32, 32)),), "net"))
    return export(captured, classifier_spec(), dynamic_batch=True)


def test_program_for_any_number_of_images_survives_its_file(tmp_path):
    model = seeded(TinyClassifier)
    program = _batches(model)
    save_program(program, tmp_path)
    loaded = load_program(tmp_path)
    assert loaded.dynamic_batch
    assert not export(model, classifier_spec()).dynamic_batch
    for count in (1, 3):
        images = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(loaded.exported.module()(images), model(images), rtol=1e-5, atol=1e-6)


def test_other_inputs_than_the_specs_are_refused_in_words():
    program = _batches(seeded(TinyClassifier))
    with pytest.raises(ExportError, match=r"outputs have shapes \[\((\w+), 5\)\], the spec says \[\(\1, 7\)\]"):
        dataclasses.replace(program, spec=classifier_spec(7))


class _Double(nn.Module):
    def forward(self, x):
        return x.double().mean((2, 3)).float().repeat(1, 2)[:, :5]


def test_float64_is_refused():
    with pytest.raises(ExportError, match=r"torch\.float64"):
        export(_Wrapped(_Double()), classifier_spec())


def test_wrong_output_shape_is_refused():
    with pytest.raises(ExportError, match=r"outputs have shapes \[\(1, 5\)\], the spec says \[\(1, 7\)\]"):
        export(seeded(TinyClassifier), classifier_spec().for_task(7))


class _DependsOnData(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_data_dependent_control_flow_is_one_line():
    with pytest.raises(ExportError) as caught:
        export(_DependsOnData(), classifier_spec(3))
    assert "cannot be captured" in caught.value.message
    assert "\n" not in str(caught.value)
