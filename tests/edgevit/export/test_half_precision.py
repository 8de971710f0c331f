"""Programs in fp16 and bf16: everything between inputs and outputs is cast, and the program itself stays unchanged."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from edgevit.export.export_program import export
from edgevit.export.half_precision import cast_to_precision
from edgevit.graph.capture import capture, example_input, functional
from edgevit.spec import Precision
from tests.tiny import classifier_spec

DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


class _Named(nn.Module):
    """Names float32 where it creates and where it converts tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        ramp = torch.arange(3, dtype=torch.float32)
        return self.head(x.mean((2, 3)).to(torch.float32) * (ramp + 1)).softmax(-1, dtype=torch.float32)


@pytest.fixture(scope="module")
def program():
    captured = functional(capture(_Named(), (example_input((1, 3, 32, 32)),), "net"))
    return export(captured, classifier_spec(), dynamic_batch=True)


@pytest.mark.parametrize("precision", DTYPES)
def test_all_between_the_ends_is_cast(program, precision):
    images = torch.randn(3, 3, 32, 32)
    expected = program.exported.module()(images)
    cast = cast_to_precision(dataclasses.replace(program, precision=precision))
    values = [node.meta["val"] for node in cast.graph.nodes if node.op == "call_function"]
    dtypes = [value.dtype for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert set(dtypes[:-1]) == {DTYPES[precision]}
    output = cast.module()(images)
    assert output.dtype == dtypes[-1] == torch.float32
    torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-3)
    assert torch.equal(program.exported.module()(images), expected)  # its own weights were left alone


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_other_precisions_keep_the_graph(program, precision):
    assert cast_to_precision(dataclasses.replace(program, precision=precision)) is program.exported
