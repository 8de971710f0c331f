"""The reference is float64; where it cannot be, or outputs are no numbers to judge by, one line says so."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

import edgevit
from edgevit.checkpoints.model_source import load_model
from edgevit.errors import ParityError
from edgevit.graph import arithmetic
from edgevit.spec import Precision
from edgevit.verification.reference_model import captured_form
from edgevit.verification.reference_outputs import float_reference
from tests.tiny import TinyClassifier, classifier_spec, seeded


class Ending(nn.Module):
    """The tiny network with something done to its outputs."""

    def __init__(self, change) -> None:
        super().__init__()
        self.network, self.change = seeded(TinyClassifier), change

    def forward(self, x):
        return self.change(self.network(x))


def _reference(module: nn.Module, precision: Precision = Precision.FP32):
    source = load_model(module, spec=classifier_spec())
    tensors = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    return float_reference(source, captured_form(source), tensors, precision), tensors


def test_outputs_are_float64_rounded_once_and_the_distance_of_float32_is_noted():
    found, tensors = _reference(seeded(TinyClassifier))
    exact = seeded(TinyClassifier).eval().double()(torch.from_numpy(tensors).double()).detach().numpy()
    assert np.array_equal(found.outputs, exact.astype(np.float32))
    assert found.facts.arithmetic == "float64"
    assert found.facts.float32_error is not None
    assert 0 < found.facts.float32_error < 1e-6
    assert found.facts.float16_snr_db is not None
    assert 50 < found.facts.float16_snr_db < 90
    assert found.tolerance.max_relative_error == 1e-5
    assert found.out_of_range is None


def test_bound_widens_where_float32_itself_is_far():
    """A large constant that is added and taken away again leaves the rounding of the large number."""
    found, _ = _reference(Ending(lambda x: (x + 300.0) - 300.0))
    assert found.facts.float32_error is not None
    assert 2.5e-6 < found.facts.float32_error < 2.5e-4
    assert found.tolerance.max_relative_error == pytest.approx(4 * found.facts.float32_error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: (x + 1e5) - 1e5, "are noise: float32 in PyTorch is"),
        (lambda x: x / (x - x), "gives infinite values"),
        (lambda x: (x - x) / (x - x), "gives not-a-number values"),
        (lambda x: x * 1e32, r"gives outputs of \d?e\+3\d"),
    ],
)
def test_outputs_that_judge_nothing_end_in_one_line(change, says):
    with pytest.raises(ParityError, match=says) as raised:
        _reference(Ending(change))
    assert "\n" not in str(raised.value)
    assert raised.value.fix


def test_constant_outputs_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        _reference(Ending(lambda x: 0 * x + 1))
    assert [record.getMessage() for record in caplog.records] == [
        "WARNING   tiny_classifier gives the same outputs for every sample image"
    ]


def test_network_without_float64_is_compared_in_float32_and_says_so_once(monkeypatch, caplog):
    def refuse(*_):
        raise NotImplementedError("no kernel for Double")

    monkeypatch.setattr(arithmetic, "run_in_float64", refuse)
    with caplog.at_level(logging.WARNING):
        found, _ = _reference(seeded(TinyClassifier))
    assert [record.getMessage() for record in caplog.records] == [
        "WARNING   tiny_classifier is compared in float32, because float64 failed: no kernel for Double"
    ]
    assert (found.facts.arithmetic, found.facts.float32_error) == ("float32", None)
    assert found.tolerance.max_relative_error == 1e-5


def test_manifest_has_the_reference_and_values_beyond_fp16_are_told(tmp_path, caplog):
    network = seeded(TinyClassifier)
    with torch.no_grad():
        network.norm.weight.mul_(1e7)
        network.head.weight.mul_(1e-7)
    with caplog.at_level(logging.WARNING):
        artifact = edgevit.convert(network, spec=classifier_spec(), target="tflite", out=tmp_path)
    told = [record.getMessage() for record in caplog.records if "fp16 ends at 65504" in record.getMessage()]
    assert len(told) == 1
    assert "values of norm reach" in told[0]
    reference = artifact.manifest.reference
    assert reference is not None
    assert (reference.arithmetic, reference.float16_snr_db) == ("float64", None)
