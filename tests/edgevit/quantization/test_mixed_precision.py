"""Mixed precision by an accuracy budget: the layer that int8 ruins is kept in float, in every target."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from edgevit.errors import QuantizationError
from edgevit.export.export_program import export
from edgevit.quantization import ptq
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.expected_qparams import network_qparams
from edgevit.quantization.mixed_precision import fit_budget, row
from edgevit.quantization.model_qparams import compare_qparams
from edgevit.quantization.qparams import QParams, QParamsTable
from edgevit.quantization.quantized_model import Int8Network, prepare, restore
from edgevit.spec import Precision
from edgevit.targets.registry import get_converter
from tests.tiny import TinyResidual, TinySegmenter, residual_spec, seeded, segmenter_spec

IMAGES = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network() -> Int8Network:
    """TinyResidual whose convolution "last" can write three values only; all else is calibrated well."""
    deployed, steps = prepare(seeded(TinyResidual), residual_spec())
    corrected, table = calibrate(deployed, list(IMAGES[:16, None]))
    healthy = Int8Network(corrected, table, steps)
    (ruined,) = (node for node in healthy.annotation().weighted if "last" in str(node.args[1]))
    low, high = table.activations[ruined.name].range
    qparams = {**table.activations, ruined.name: QParams.over(100 * low, 100 * high)}
    return Int8Network(corrected, QParamsTable(qparams, table.weights), steps)


@pytest.fixture(scope="module")
def targets(network):
    with torch.no_grad():
        return [int(network.deployed(image[None]).argmax()) for image in IMAGES]


@pytest.fixture(scope="module")
def budgeted(network, targets):
    return fit_budget(network, list(IMAGES), targets, 2.0)


def test_the_ruined_layer_is_among_few_that_stay_in_float(network, budgeted):
    assert budgeted.drop_before > 4 > 2 >= budgeted.drop
    assert "last" in {cost.place for cost in budgeted.kept_in_float}
    assert len(budgeted.kept_in_float) <= 3 < budgeted.candidates
    assert all(name in budgeted.network.table.float_fallback for cost in budgeted.kept_in_float for name in cost.nodes)
    assert "points below the float network on 64 held-out" in budgeted.summary()


def test_costs_say_what_int8_does_at_a_layer_alone(budgeted):
    worst = min(budgeted.kept_in_float, key=lambda cost: cost.snr_db)
    assert worst.place == "last"
    assert worst.snr_db < 20
    assert worst.drop_percentage_points > 2
    assert row(worst)[1].endswith(" dB")


def test_drop_is_that_of_the_network_which_leaves(network, budgeted, targets):
    module = budgeted.network.module()
    with torch.no_grad():
        hits = sum(int(module(image[None]).argmax()) == target for image, target in zip(IMAGES, targets, strict=True))
    assert 100 * (len(targets) - hits) / len(targets) == pytest.approx(budgeted.drop)


def test_budget_that_is_kept_changes_nothing(network, targets):
    kept = fit_budget(network, list(IMAGES), targets, 100.0)
    assert (kept.kept_in_float, kept.network.digest()) == ((), network.digest())


def test_budget_that_cannot_be_kept_is_refused(network, targets):
    with pytest.raises(QuantizationError, match="every layer in float"):
        fit_budget(network, list(IMAGES), targets, -1.0)


def test_float_fallback_survives_storing(budgeted):
    network = budgeted.network
    again = restore(network.checkpoint_part())
    assert again.table.float_fallback == network.table.float_fallback != frozenset()
    assert again.digest() == network.digest()
    image = IMAGES[:1]
    with torch.no_grad():
        assert torch.equal(again.module()(image), network.module()(image))


@pytest.mark.parametrize("target", ["executorch", "tflite", "coreml"])
def test_every_target_has_the_same_float_fallback(budgeted, target, tmp_path):
    converter = get_converter(target)
    pytest.importorskip(converter.runtime_modules[-1], reason=f"{target} is not installed")
    network = budgeted.network
    program = export(network.module(), residual_spec(), precision=Precision.INT8)
    converted = converter.convert(program, converter.Options(), tmp_path)
    manifest = dataclasses.make_dataclass("Manifest", ["entry"])(converted.entry)
    stored, expected = converter.read_qparams(tmp_path, manifest), network_qparams(network)
    assert compare_qparams(stored, expected).equal
    assert len(stored.float_layers) == len(expected.float_layers) >= 1


def test_masks_have_a_budget_in_points_of_their_own_score():
    spec = segmenter_spec()
    deployed, steps = prepare(seeded(TinySegmenter), spec)
    network = Int8Network.settled(*calibrate(deployed, list(IMAGES[:16, None])), steps)
    with torch.no_grad():
        masks = [network.deployed(image[None])[0].argmax(0).to(torch.uint8) for image in IMAGES]
    kept = fit_budget(network, list(IMAGES), masks, 50.0)
    assert (kept.metric, kept.kept_in_float) == ("mIoU", ())
    assert 0 < kept.drop < 50
    strict = fit_budget(network, list(IMAGES), masks, kept.drop / 2)
    assert strict.kept_in_float
    assert strict.drop <= kept.drop / 2


@pytest.mark.parametrize(("count", "max_drop", "warned"), [(32, 0.5, True), (200, 0.5, False), (32, 0.0, False)])
def test_few_images_are_reported_with_the_steps_that_they_can_show(count, max_drop, warned, caplog):
    with caplog.at_level(logging.WARNING):
        ptq._warn_of_coarse_steps(count, max_drop)
    recorded = "32 images judge in steps of 3.1 points: a drop of 0.5 takes 200"
    assert (recorded in caplog.text) is warned
