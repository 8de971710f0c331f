"""The deploy stage: what fires, that it is exact, and that a wrong rewrite is stopped."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from edgevit.capture import capture, example_input, to_graph_module
from edgevit.deploy import deploy
from edgevit.deploy.conv_bn import FOLD_CONV_BN, fold
from edgevit.deploy.noops import REMOVE_NOOPS
from edgevit.errors import ExportError
from tests.tiny import TinyClassifier, classifier_spec, seeded


def _norms(graph_module: torch.fx.GraphModule) -> int:
    return len(graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default))


def _captured(module: nn.Module, shape: tuple[int, ...]) -> torch.fx.GraphModule:
    return to_graph_module(capture(module, (example_input(shape),), "net"))


def _settled(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def test_fold_equals_conv_then_norm():
    torch.manual_seed(1)
    conv, norm = nn.Conv2d(3, 7, 3, bias=True).double(), _settled(nn.BatchNorm2d(7).double()).eval()
    weight, bias = fold(conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    x = torch.randn(2, 3, 9, 9).double()
    assert torch.allclose(nn.functional.conv2d(x, weight, bias), norm(conv(x)), atol=1e-12)


def test_deploy_folds_norm_after_conv_and_keeps_the_other():
    model = seeded(TinyClassifier)
    graph_module, steps = deploy(model, classifier_spec())
    assert [(step.name, step.changes) for step in steps] == [("remove_noops", 1), ("fold_conv_bn", 1)]
    assert _norms(graph_module) == 1  # the one in front of the depthwise convolution has no convolution before it
    x = example_input((1, 3, 32, 32), seed=5)
    assert torch.allclose(graph_module(x), model(x), atol=1e-5)


def test_deploy_leaves_the_training_form_alone():
    model = seeded(TinyClassifier)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deploy(model, classifier_spec())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class _TwoReaders(nn.Module):
    """The convolution's result is read by the norm and by the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


class _SharedWeight(nn.Module):
    """One convolution called twice: folding one norm into it would change the other call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.a(self.conv(x)) + self.b(self.conv(x + 1))


@pytest.mark.parametrize("build", [_TwoReaders, _SharedWeight])
def test_fold_does_not_match_where_it_would_be_wrong(build):
    model = build().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        _settled(norm)
    graph_module = _captured(model, (1, 3, 6, 6))
    norms = _norms(graph_module)
    assert FOLD_CONV_BN.apply(graph_module) == []
    assert _norms(graph_module) == norms
    x = example_input((1, 3, 6, 6), seed=3)
    assert torch.equal(graph_module(x), model(x))


def test_fold_takes_norm_without_affine_and_grouped_conv():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False), _settled(nn.BatchNorm2d(8, affine=False))).eval()
    graph_module = _captured(model, (1, 4, 8, 8))
    assert FOLD_CONV_BN.apply(graph_module) == ["1"]
    graph_module.recompile()
    x = example_input((1, 4, 8, 8), seed=2)
    assert torch.allclose(graph_module(x), model(x), atol=1e-6)


@dataclass(frozen=True)
class _WrongPass:
    """Scales every convolution's weight by 1.01 and claims to be exact."""

    name: str = "wrong"

    def apply(self, graph_module):
        for name, parameter in graph_module.named_parameters():
            if "stem" in name:
                parameter.data.mul_(1.01)
        return ["stem.0"]


def test_pass_that_changes_the_output_is_named():
    with pytest.raises(ExportError, match=r"deploy pass wrong changed the output .* it had rewritten stem\.0"):
        deploy(seeded(TinyClassifier), classifier_spec(), passes=(_WrongPass(),))


@dataclass(frozen=True)
class _NanPass:
    name: str = "nan"

    def apply(self, graph_module):
        next(graph_module.parameters()).data.fill_(float("nan"))
        return ["somewhere"]


def test_pass_that_makes_nan_is_stopped():
    with pytest.raises(ExportError, match="deploy pass nan"):
        deploy(seeded(TinyClassifier), classifier_spec(), passes=(_NanPass(),))


def test_noops_leave_what_drops():
    graph_module = _captured(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.0), nn.ReLU()), (1, 3, 4, 4))
    first, second = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default)
    first.args = (first.args[0], 0.5, True)
    second.args = (second.args[0], 0.0, True)
    assert REMOVE_NOOPS.apply(graph_module) == ["1"]
    assert first in graph_module.graph.nodes
