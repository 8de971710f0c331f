"""Packages from our converter and from coremltools, evaluated and held against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from converters.coreml.converter import CONVERTER, CoreMLOptions
from edgevit.compat.coremltools import open_coremltools, quiet_coremltools
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ConversionError, UsageError
from edgevit.export.export_program import export
from edgevit.mil import Interpreter
from edgevit.models import create_model
from edgevit.spec import Precision
from tests.tiny import TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec

pytest.importorskip("coremltools")

SIZE = 32
MAX_RELATIVE_ERROR = 1e-5
MIN_SNR_DB = 50.0


@pytest.fixture(scope="module")
def image():
    """(1, 3, 32, 32), standard normal."""
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def relative_error(ours, reference):
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def snr_db(ours, reference):
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    return 10 * np.log10((reference**2).sum() / ((ours - reference) ** 2).sum())


def packaged(network, spec, precision, folder):
    """The network as our converter writes it."""
    module, _ = deploy(network, spec)
    CONVERTER.convert(export(module, spec, precision=precision), CoreMLOptions(), folder)
    return folder / "model.mlpackage"


def converted(network, example, folder, *, inputs=None, target="iOS17", half=False, **arguments):
    """A coremltools model saved at folder/any.mlpackage, and its path."""
    ct = open_coremltools()
    with quiet_coremltools():
        program = torch.export.export(network.eval(), (example,)).run_decompositions({})
        model = ct.convert(
            program,
            inputs=inputs,
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
            **arguments,
        )
        return model, saved(model, folder / "any.mlpackage")


def saved(model, path: Path) -> Path:
    with quiet_coremltools():
        model.save(str(path))
    return path


def only(results):
    (value,) = results.values()
    return value


@pytest.mark.parametrize(
    ("network", "spec"), [(TinyClassifier, classifier_spec), (TinySegmenter, segmenter_spec)], ids=["class", "segment"]
)
def test_tiny_networks_agree_with_torch_in_every_mode(network, spec, image, tmp_path):
    network = seeded(network)
    reference = network(image).detach().numpy()
    for precision in Precision.FP32, Precision.FP16:
        folder = tmp_path / precision.value
        folder.mkdir()
        package = packaged(network, spec(), precision, folder)
        for mode in "fp32", "declared", "fp64":
            ours = only(Interpreter(package, mode=mode).predict({"image": image.numpy()}))
            assert ours.dtype == (np.float64 if mode == "fp64" else np.float32)
            if precision is Precision.FP32:
                assert relative_error(ours, reference) <= MAX_RELATIVE_ERROR
            else:
                assert snr_db(ours, reference) >= MIN_SNR_DB


@pytest.mark.parametrize(
    "name",
    [
        "vt_resnet18",
        pytest.param("van_b0", marks=pytest.mark.slow),
        pytest.param("segnetr_32", marks=pytest.mark.slow),
        pytest.param("mobile_former_26m", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_models_of_the_zoo_agree_with_torch(name, precision, tmp_path):
    torch.manual_seed(0)
    network = create_model(name, num_classes=7, input_size=64).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        reference = network(image).numpy()
    package = packaged(network, network.edgevit_spec, precision, tmp_path)
    mode = "fp32" if precision is Precision.FP32 else "declared"
    ours = only(Interpreter(package, mode=mode).predict({"image": image.numpy()}))
    if precision is Precision.FP32:
        assert relative_error(ours, reference) <= MAX_RELATIVE_ERROR
    else:
        assert snr_db(ours, reference) >= MIN_SNR_DB


def test_declared_mode_shows_overflow_that_fp32_hides(image, tmp_path):
    class Overflowing(nn.Module):
        def forward(self, x):
            return (x * 3e4) * 3e4 * 1e-9

    _, package = converted(Overflowing(), image, tmp_path, half=True)
    name = Interpreter(package).inputs[0].name
    assert np.isfinite(only(Interpreter(package).predict({name: image.numpy()}))).all()
    assert np.isinf(only(Interpreter(package, mode="declared").predict({name: image.numpy()}))).any()


class Channels(nn.Module):
    """Mean of each channel: tells which plane is which."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_image_inputs_get_their_colour_order_scale_and_bias(layout, tmp_path):
    from PIL import Image

    ct = open_coremltools()
    inputs = [ct.ImageType(name="x", shape=(1, 3, 4, 4), scale=0.5, bias=[1.0, 2.0, 3.0], color_layout=layout)]
    _, package = converted(Channels(), torch.zeros(1, 3, 4, 4), tmp_path, inputs=inputs)
    interpreter = Interpreter(package)
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:] = (10, 20, 30)
    planes = (10, 20, 30) if layout == "RGB" else (30, 20, 10)
    expected = [0.5 * plane + bias for plane, bias in zip(planes, (1, 2, 3), strict=True)]
    for image in Image.fromarray(pixels), pixels, pixels.transpose(2, 0, 1)[None]:
        np.testing.assert_allclose(only(interpreter.predict({"x": image}))[0], expected)
    with pytest.raises(UsageError, match="shape"):
        interpreter.predict({"x": Image.fromarray(pixels).resize((5, 4))})


def test_grayscale_image_is_one_plane(tmp_path):
    ct = open_coremltools()
    inputs = [ct.ImageType(name="x", shape=(1, 1, 4, 4), color_layout=ct.colorlayout.GRAYSCALE)]
    _, package = converted(Channels(), torch.zeros(1, 1, 4, 4), tmp_path, inputs=inputs)
    assert only(Interpreter(package).predict({"x": np.full((4, 4), 7, np.uint8)})).tolist() == [[7.0]]


def test_classifier_gives_label_and_probabilities(tmp_path):
    class Probable(nn.Module):
        def forward(self, x):
            return torch.softmax(x, -1)

    config = open_coremltools().ClassifierConfig(["ant", "bee", "cat"])
    _, package = converted(Probable(), torch.zeros(1, 3), tmp_path, classifier_config=config)
    interpreter = Interpreter(package)
    result = interpreter.predict({interpreter.inputs[0].name: np.array([[0.0, 2.0, 1.0]], np.float32)})
    assert result["classLabel"] == "bee"
    probabilities = result["classLabel_probs"]
    assert list(probabilities) == ["ant", "bee", "cat"]
    assert sum(probabilities.values()) == pytest.approx(1)


def test_multifunction_package_runs_each_function(image, tmp_path):
    ct = open_coremltools()
    paths = []
    for index, factor in enumerate((1.0, 3.0)):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        with torch.no_grad():
            network[0].weight.fill_(factor)
        folder = tmp_path / str(index)
        folder.mkdir()
        paths.append((network, converted(network, image, folder)[1]))
    descriptor = ct.utils.MultiFunctionDescriptor()
    for (_, path), name in zip(paths, ("first", "second"), strict=True):
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "first"
    both = tmp_path / "both.mlpackage"
    with quiet_coremltools():
        ct.utils.save_multifunction(descriptor, str(both))
    for function, (network, _) in zip((None, "second"), paths, strict=True):
        interpreter = Interpreter(both, function=function)
        ours = only(interpreter.predict({interpreter.inputs[0].name: image.numpy()}))
        assert relative_error(ours, network(image).detach().numpy()) <= MAX_RELATIVE_ERROR
    with pytest.raises(UsageError, match="third"):
        Interpreter(both, function="third")


@pytest.mark.parametrize(
    ("form", "target", "floor_db"),
    [("int8", "iOS17", 30), ("int4", "iOS18", 10), ("palette", "iOS17", 30), ("sparse", "iOS17", 3)],
)
def test_compressed_weights_compute_what_they_decompress_to(form, target, floor_db, image, tmp_path):
    """Against torch within the loss of the format, and exactly against the package that coremltools decompresses."""
    import coremltools.optimize.coreml as optimize

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(25088, 4))
    model, _ = converted(network, image, tmp_path, target=target)
    compress, config = {
        "int8": (optimize.linear_quantize_weights, optimize.OpLinearQuantizerConfig("linear_symmetric")),
        "int4": (
            optimize.linear_quantize_weights,
            optimize.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16),
        ),
        "palette": (optimize.palettize_weights, optimize.OpPalettizerConfig(mode="uniform", nbits=8)),
        "sparse": (optimize.prune_weights, optimize.OpMagnitudePrunerConfig(target_sparsity=0.3)),
    }[form]
    with quiet_coremltools():
        small = compress(model, optimize.OptimizationConfig(global_config=config))
        whole = optimize.decompress_weights(small)
    package = saved(small, tmp_path / "small.mlpackage")
    interpreter = Interpreter(package)
    name = interpreter.inputs[0].name
    ours = only(interpreter.predict({name: image.numpy()}))
    plain = only(Interpreter(saved(whole, tmp_path / "whole.mlpackage")).predict({name: image.numpy()}))
    assert snr_db(ours, network(image).detach().numpy()) >= floor_db
    assert relative_error(ours, plain) <= MAX_RELATIVE_ERROR


def test_state_is_kept_between_predictions_and_can_be_set(tmp_path):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 1.0

    ct = open_coremltools()
    with quiet_coremltools():
        traced = torch.jit.trace(Counter().eval(), torch.zeros(3))
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(name="x", shape=(3,))],
            outputs=[ct.TensorType(name="y", dtype=np.float16)],
            states=[ct.StateType(wrapped_type=ct.TensorType(shape=(3,)), name="total")],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
    interpreter = Interpreter(saved(model, tmp_path / "counter.mlpackage"))
    step = {"x": np.array([1.0, 2.0, 3.0], np.float32)}
    with pytest.raises(UsageError, match="state"):
        interpreter.predict(step)
    state = interpreter.make_state()
    interpreter.predict(step, state)
    assert interpreter.predict(step, state)["y"].tolist() == [2, 4, 6]
    state.write_state("total", np.zeros(3))
    assert interpreter.predict(step, state)["y"].tolist() == [1, 2, 3]
    assert state.read_state("total").tolist() == [1, 2, 3]


def test_all_unsupported_operations_are_named_together(tmp_path, image):
    _, package = converted(Channels(), image, tmp_path)
    from edgevit.mil.package import body, open_package

    opened = open_package(package)
    operations = body(opened.functions["main"]).operations
    for kind in "lstm", "random_normal":
        operations.add().CopyFrom(operations[-1])
        operations[-1].type = kind
    with pytest.raises(ConversionError, match=r"2 unsupported op\(s\): lstm .*random_normal"):
        Interpreter(opened)


def test_wrong_inputs_name_what_is_wrong(image, tmp_path):
    _, package = converted(Channels(), image, tmp_path)
    interpreter = Interpreter(package)
    name = interpreter.inputs[0].name
    with pytest.raises(UsageError, match="missing"):
        interpreter.predict({})
    with pytest.raises(UsageError, match="unknown input"):
        interpreter.predict({name: image.numpy(), "other": image.numpy()})
    with pytest.raises(UsageError, match="shape"):
        interpreter.predict({name: image.numpy()[:, :2]})
    with pytest.raises(UsageError, match="mode"):
        Interpreter(package, mode="fp8")


def test_several_inputs_are_predicted_in_turn_and_observed(image, tmp_path):
    _, package = converted(Channels(), image, tmp_path)
    interpreter = Interpreter(package)
    name, seen = interpreter.inputs[0].name, []
    results = interpreter.predict(
        [{name: image.numpy()}, {name: 2 * image.numpy()}],
        observe=lambda value, kind, tensor: seen.append((kind, tuple(tensor.shape))),
    )
    np.testing.assert_allclose(2 * only(results[0]), only(results[1]), rtol=1e-6)
    assert seen == [("reduce_mean", (1, 3))] * 2
