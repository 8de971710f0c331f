import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgevit.errors import UsageError
from edgevit.graph.capture import example_input
from edgevit.models import create_model, get_spec
from edgevit.models.resnet import BasicBlock, Bottleneck
from edgevit.models.vt_resnet import (
    HEADS,
    FilterTokenizer,
    Projector,
    RecurrentTokenizer,
    TokenTransformer,
    VTResNet,
)

SIZES = {
    18: (BasicBlock, (2, 2, 2), 2),
    34: (BasicBlock, (3, 4, 6), 3),
    50: (Bottleneck, (3, 4, 6), 3),
    101: (Bottleneck, (3, 4, 23), 3),
}


def build(depth: int = 18, *, project_last: bool = True, num_classes: int = 1000) -> VTResNet:
    block, depths, num_modules = SIZES[depth]
    return VTResNet(num_classes, block=block, depths=depths, num_modules=num_modules, project_last=project_last)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def model() -> VTResNet:
    torch.manual_seed(0)
    return create_model("vt_resnet18").eval()


def randomize(module: nn.Module) -> nn.Module:
    """Weights large enough that scores, biases and values all show in the output."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        fan_in = max(1, parameter[0].numel())
        nn.init.normal_(parameter, std=1.5 / math.sqrt(fan_in))
    return module


def grouped_linear(conv: nn.Conv2d, pixels: torch.Tensor) -> torch.Tensor:
    """A grouped 1x1 convolution on pixels (P, C), one head after the other -> (P, heads, C / heads)."""
    weight = conv.weight.reshape(HEADS, -1, conv.weight.shape[1])  # (heads, out, in)
    split = pixels.reshape(len(pixels), HEADS, -1)
    return torch.einsum("phi,hoi->pho", split, weight) + conv.bias.reshape(HEADS, -1)


@pytest.mark.parametrize(
    ("depth", "project_last", "params"),
    [
        (18, True, 10_857_528),
        (18, False, 9_791_032),
        (34, True, 19_970_616),
        (34, False, 18_904_120),
        (50, True, 23_239_480),
        (50, False, 21_073_720),
        (101, True, 42_231_608),
        (101, False, 40_065_848),
    ],
)
def test_parameter_count_of_every_depth(depth, project_last, params):
    with torch.device("meta"):
        assert count(build(depth, project_last=project_last)) == params


def test_parameters_through_layer3_are_those_of_resnet18(model):
    backbone = (model.conv1, model.bn1, model.layer1, model.layer2, model.layer3)
    assert sum(map(count, backbone)) == 2_782_784
    keys = model.state_dict()
    assert {"conv1.weight", "bn1.running_mean", "layer1.1.conv2.weight", "layer3.0.downsample.1.bias"} <= keys.keys()
    assert not any(key.startswith("layer4") for key in keys)


@pytest.mark.parametrize(("project_last", "published"), [(True, 1.569e9), (False, 1.546e9)])
def test_macs_are_the_published_ones(project_last, published):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(project_last=project_last).eval()(torch.empty(1, 3, 224, 224))
    macs = counter.get_total_flops() // 2
    assert macs == pytest.approx(published, rel=0.005)
    if project_last:
        assert macs == get_spec("vt_resnet18").macs


@pytest.mark.parametrize("size", [64, 112, 160])
def test_logits_and_features_have_the_documented_shapes(model, size):
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        features, tokens = model.forward_features(images)
        assert model(images).shape == (1, 1000)
    assert features.shape == (1, 512, size // 16, size // 16)
    assert tokens.shape == (1, 16, 1024)


def test_other_class_count_changes_the_head_only():
    assert count(create_model("vt_resnet18", num_classes=7)) == 10_857_528 - (1000 - 7) * 1025


def test_size_off_the_stride_is_a_usage_error():
    with pytest.raises(UsageError, match="input size 100"):
        get_spec("vt_resnet18").for_task(input_size=100)


def test_batch_equals_its_images_one_by_one(model):
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        one_by_one = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("project_last", [True, False])
def test_gradients_reach_every_parameter_but_the_last_projector(project_last):
    model = build(project_last=project_last, num_classes=10)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if name.startswith("stage5.1.projector.")}
    assert bool(without) == project_last


def test_features_give_the_last_projector_its_gradient():
    model = build(num_classes=10)
    features, _ = model.forward_features(torch.randn(2, 3, 64, 64))
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in model.stage5[1].projector.parameters())


@pytest.mark.parametrize("channels", [64, 128])
def test_filter_tokenizer_equals_a_plain_weighted_mean(channels):
    tokenizer = randomize(FilterTokenizer(channels, 128, 16))
    x = torch.randn(2, channels, 5, 3)
    tokens = tokenizer(x)
    assert tokens.shape == (2, 16, 128)
    for image, got in zip(x, tokens, strict=True):
        pixels = image.permute(1, 2, 0).reshape(15, channels)
        scores = pixels @ tokenizer.coefficients.weight[:, :, 0, 0].T + tokenizer.coefficients.bias  # (15, 16)
        weights = (scores / math.sqrt(channels)).softmax(0)
        values = grouped_linear(tokenizer.value, pixels).reshape(15, channels)
        expected = tokenizer.embed(torch.einsum("pl,pc->lc", weights, values))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_recurrent_tokenizer_equals_a_plain_einsum():
    tokenizer = randomize(RecurrentTokenizer(64, 128))
    x, previous = torch.randn(2, 64, 5, 3), torch.randn(2, 16, 128)
    for image, before, got in zip(x, previous, tokenizer(x, previous), strict=True):
        pixels = image.permute(1, 2, 0).reshape(15, 64)
        query = tokenizer.query(before).reshape(16, HEADS, 4)
        scores = torch.einsum("lhd,phd->hlp", query, grouped_linear(tokenizer.key, pixels))
        weights = (scores / 2.0).softmax(-1)  # sqrt(64 / 16 heads) = 2
        values = grouped_linear(tokenizer.value, pixels)
        expected = tokenizer.embed(torch.einsum("hlp,phd->lhd", weights, values).reshape(16, 64))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_transformer_follows_the_paper_equations():
    transformer = randomize(TokenTransformer(64))
    tokens = torch.randn(2, 16, 64)
    scores = torch.einsum("nik,njk->nij", transformer.key(tokens), transformer.query(tokens)) / math.sqrt(512)
    attended = tokens + torch.einsum("nij,njc->nic", scores.softmax(2), tokens)
    expected = attended + transformer.fc2(transformer.fc1(attended).relu())
    torch.testing.assert_close(transformer(tokens), expected, rtol=1e-4, atol=1e-4)


def test_projector_equals_a_plain_einsum():
    projector = randomize(Projector(64, 128))
    x, tokens = torch.randn(2, 64, 5, 3), torch.randn(2, 16, 128)
    for image, given, got in zip(x, tokens, projector(x, tokens), strict=True):
        pixels = image.permute(1, 2, 0).reshape(15, 64)
        key, value = (linear(given).reshape(16, HEADS, 4) for linear in (projector.key, projector.value))
        scores = torch.einsum("phd,lhd->hpl", grouped_linear(projector.query, pixels), key)
        update = torch.einsum("hpl,lhd->phd", (scores / 2.0).softmax(-1), value).reshape(5, 3, 64)
        torch.testing.assert_close(got, image + update.permute(2, 0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vt_resnet34", "vt_resnet101"])
def test_a_new_network_does_not_grow_with_its_blocks(name):
    torch.manual_seed(0)
    network = create_model(name).eval()
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(example_input((1, 3, 64, 64))))))
        deep = network.layer3(network.layer2(network.layer1(x)))
    assert deep.std() < 4 * x.std()
