"""What leaves the capture can be copied and rewritten."""

from __future__ import annotations

import copy

import pytest
import torch

from edgevit.export.export_program import export
from edgevit.graph.capture import functional
from edgevit.graph.intermediate_outputs import with_outputs
from tests.tiny import TinyClassifier, classifier_spec, seeded


class CalledInput(TinyClassifier):
    """Its input has the name of one of Python's built-ins, as that of nn.Sequential has."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input)


@pytest.fixture(scope="module")
def program():
    return export(seeded(CalledInput), classifier_spec())


def test_copy_of_a_program_keeps_the_name_that_its_signature_has(program):
    copied = copy.deepcopy(program.exported)
    (name,) = copied.graph_signature.user_inputs
    assert name in {node.name for node in copied.graph.find_nodes(op="placeholder")}
    again = export(functional(copied), classifier_spec()).exported
    assert again.graph_signature.user_inputs == (name,)


def test_program_returns_intermediate_values_whatever_its_input_is_called(program):
    (linear,) = program.exported.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, inner = with_outputs(program.exported, [linear.name]).module(check_guards=False)(image)
    torch.testing.assert_close(inner, logits, rtol=0, atol=0)
    torch.testing.assert_close(logits, seeded(TinyClassifier)(image))
