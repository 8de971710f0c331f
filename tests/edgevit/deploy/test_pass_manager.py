"""The deploy stage: what fires for which kernels, that a wrong rewrite is stopped, and what is left untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.deploy.pass_manager import PASSES, deploy
from edgevit.errors import ExportError, UsageError
from edgevit.export.export_program import export
from edgevit.graph.capture import capture, example_input, functional, is_functional
from tests.tiny import TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec

_SHAPE = (1, 3, 32, 32)


def _captured() -> torch.fx.GraphModule:
    return functional(capture(seeded(TinyClassifier), (example_input(_SHAPE),), "net"))


def _convolutions(module: torch.fx.GraphModule) -> int:
    return len(module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default))


def test_steps_say_what_changed_and_where():
    graph_module, steps = deploy(seeded(TinyClassifier), classifier_spec())
    assert [step.name for step in steps] == ["remove_noops", "fold_affine", "split_depthwise"]
    drop, fold, split = steps
    assert (drop.places, drop.before.operations - drop.after.operations) == (("drop",), 1)
    assert "stem.1" in fold.places  # the norm in front of the padded convolution stays
    assert (split.places, split.changes) == (("mix",), 1)
    assert fold.after == split.before
    assert (split.before.depthwise_taps, split.after.depthwise_taps > 25) == (49, False)
    assert split.after.macs == split.before.macs
    assert split.after.operations == split.before.operations + 2 * (_convolutions(graph_module) - 2)
    assert all(step.probe_error <= 1e-6 for step in steps)


@pytest.mark.parametrize(
    ("build", "spec"), [(TinyClassifier, classifier_spec()), (TinySegmenter, segmenter_spec())], ids=["class", "mask"]
)
@pytest.mark.parametrize("kernels", ["xnnpack", "coreml"])
def test_output_is_the_same_and_can_be_exported(build, spec, kernels):
    model = seeded(build)
    graph_module, _ = deploy(model, spec, kernels=kernels)
    x = example_input(_SHAPE, seed=5)
    expected = model(x)
    for module in (graph_module, export(graph_module, spec).exported.module()):
        assert (module(x) - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_coreml_keeps_its_depthwise_kernels_whole():
    graph_module, steps = deploy(seeded(TinyClassifier), classifier_spec(), kernels="coreml")
    assert [step.name for step in steps] == ["remove_noops", "fold_affine"]
    assert _convolutions(graph_module) == 2


def test_unknown_kernels_are_a_usage_error():
    with pytest.raises(UsageError, match="unknown kernel library 'cuda'"):
        deploy(seeded(TinyClassifier), classifier_spec(), kernels="cuda")


def test_module_is_not_touched():
    model = seeded(TinyClassifier)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph_module, _ = deploy(model, classifier_spec())
    for parameter in graph_module.parameters():
        parameter.data.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_captured_graph_is_taken_as_it_is_and_may_be_deployed_twice():
    captured = _captured()
    code, x = captured.code, example_input(_SHAPE, seed=5)
    expected = captured(x)
    results = {kernels: deploy(captured, classifier_spec(), kernels=kernels) for kernels in ("xnnpack", "coreml")}
    assert captured.code == code
    assert torch.equal(captured(x), expected)
    for kernels, (graph_module, steps) in results.items():
        from_module, same_passes = deploy(seeded(TinyClassifier), classifier_spec(), kernels=kernels)
        assert graph_module.code == from_module.code
        assert [(step.name, step.places) for step in steps] == [(step.name, step.places) for step in same_passes]
        assert is_functional(graph_module)


def test_exported_program_is_taken_too():
    model = seeded(TinyClassifier)
    exported = capture(model, (example_input(_SHAPE),), "net")
    graph_module, steps = deploy(exported, classifier_spec())
    from_module, same_passes = deploy(model, classifier_spec())
    assert graph_module.code == from_module.code
    assert [(step.name, step.places) for step in steps] == [(step.name, step.places) for step in same_passes]
    x = example_input(_SHAPE, seed=5)
    assert torch.equal(exported.module(check_guards=False)(x), model(x))


def test_without_passes_the_graph_is_only_captured():
    graph_module, steps = deploy(seeded(TinyClassifier), classifier_spec(), passes=())
    assert steps == ()
    assert graph_module.code == _captured().code


def test_deployed_graph_has_nothing_left_to_rewrite():
    graph_module, steps = deploy(seeded(TinyClassifier), classifier_spec())
    assert steps
    again, none = deploy(graph_module, classifier_spec())
    assert none == ()
    assert again.code == graph_module.code


class _Pass:
    """Does something to the weights of the first convolution and claims to be exact."""

    def __init__(self, name, change, places=("stem.0",)) -> None:
        self.name, self.change, self.places = name, change, list(places)

    def apply(self, graph, costs):
        self.change(graph.module.get_parameter("stem.0.weight"))
        return self.places


def test_wrong_pass_is_named_with_its_places():
    wrong = _Pass("wrong", lambda weight: weight.data.mul_(1.01), places="abcdef")
    with pytest.raises(
        ExportError, match=r"deploy pass wrong changed the output .* it had rewritten a, b, c, d \(report"
    ):
        deploy(seeded(TinyClassifier), classifier_spec(), passes=(*PASSES[:2], wrong))


class _Slightly:
    """A pass of edgevit, and an error of a given size relative to the outputs."""

    def __init__(self, rewrite, size) -> None:
        self.name, self._rewrite, self._size = rewrite.name, rewrite, size

    def apply(self, graph, costs):
        for name, parameter in graph.module.named_parameters():
            if name.startswith("network_head") or name.startswith("network.head"):
                parameter.data.mul_(1 + self._size)
        return [*self._rewrite.apply(graph, costs), "head"]


class _Shifted(nn.Module):
    """The tiny network, a constant added to its outputs and taken away: what that leaves is rounded much more."""

    def __init__(self, constant) -> None:
        super().__init__()
        self.network, self.constant = seeded(TinyClassifier), constant

    def forward(self, x):
        return (self.network(x) + self.constant) - self.constant


@pytest.mark.parametrize("rewrite", dict.fromkeys(PASSES), ids=lambda rewrite: rewrite.name)
def test_error_of_2e_5_in_any_pass_is_found_where_float32_is_close(rewrite):
    says = rf"deploy pass {rewrite.name} changed the output of tiny_classifier by [12]\.\de-05"
    with pytest.raises(ExportError, match=says):
        deploy(_Shifted(0.0), classifier_spec(), passes=(_Slightly(rewrite, 2e-5),))


def test_error_that_float32_explains_is_none_and_a_larger_one_is_told_with_the_reason():
    deploy(_Shifted(300.0), classifier_spec(), passes=(_Slightly(PASSES[0], 2e-5),))
    with pytest.raises(ExportError, match=r"because float32 itself is \d\.\de-0[56] from float64 here"):
        deploy(_Shifted(300.0), classifier_spec(), passes=(_Slightly(PASSES[0], 1e-3),))


def test_pass_that_makes_nan_is_stopped():
    with pytest.raises(ExportError, match="deploy pass nan changed the output"):
        deploy(seeded(TinyClassifier), classifier_spec(), passes=(_Pass("nan", lambda w: w.data.fill_(float("nan"))),))


def test_pass_that_changed_nothing_is_no_step():
    _, steps = deploy(seeded(TinyClassifier), classifier_spec(), passes=(_Pass("idle", lambda w: None, places=()),))
    assert steps == ()


class _TwoResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y.mean((2, 3)), y


def test_every_output_is_probed():
    model = seeded(_TwoResults)
    graph_module, steps = deploy(model, classifier_spec())
    assert [step.name for step in steps] == ["fold_affine"]
    x = example_input(_SHAPE, seed=5)
    for actual, expected in zip(graph_module(x), model(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)

    def change_the_map_alone(graph, costs):
        output = graph.module.graph.output_node()
        logits, values = output.args[0]
        relu = graph.call(torch.ops.aten.relu.default, values, like=output)
        output.args = ((logits, relu),)
        graph.tidy()
        return ["map"]

    wrong = _Pass("second", None)
    wrong.apply = change_the_map_alone
    with pytest.raises(ExportError, match="deploy pass second"):
        deploy(model, classifier_spec(), passes=(wrong,))
