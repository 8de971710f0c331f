"""Golden outputs of the official code: a weight rule, an input rule, and the logits they give.

Weights are drawn from a generator seeded by the name of each state-dict entry, so a network with a wrong key,
a wrong shape or a wrong operation cannot give the stored numbers.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

GOLDEN_DIR = Path(__file__).parents[2] / "golden" / "models"


def load_golden(name: str) -> dict:
    """The stored golden of a variant, as plain JSON."""
    return json.loads((GOLDEN_DIR / f"{name}.json").read_text())


def golden_input(golden: dict) -> Tensor:
    """The input (2, 3, H, W) float32 that a golden was computed from."""
    return torch.randn(golden["input_shape"], generator=torch.Generator().manual_seed(0))


def apply_golden_weights(model: nn.Module) -> nn.Module:
    """Overwrite every floating entry of the state dict by the golden weight rule; returns the model, in eval."""
    state = {
        key: _golden_tensor(key, value) if value.is_floating_point() else torch.zeros_like(value)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def _golden_tensor(key: str, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    # One call for the whole tensor: randn draws short and long tensors by different algorithms.
    drawn = torch.randn(like.shape, generator=generator)
    if like.ndim >= 2:
        value = drawn * (1.0 / math.sqrt(like.numel() / like.shape[0]))
    elif key.endswith("running_var"):
        value = 1 + 0.1 * drawn.abs()
    elif like.ndim == 1 and key.endswith("weight"):
        value = 1 + 0.1 * drawn
    else:
        value = 0.1 * drawn
    # Generators of per-sample kernels (dynamic DWNet) would make the activations overflow.
    return value * 0.02 if ".conv.conv2." in key else value


def assert_state_dict_layout(model: nn.Module, golden: dict) -> None:
    """Keys, their order and their shapes are the official ones."""
    layout = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    assert layout == golden["state_dict"]


def assert_logits_fp32(model: nn.Module, golden: dict, tolerance: float = 2e-5) -> None:
    """A model with golden weights gives the stored logits of both rows, and their sums and argmax."""
    with torch.no_grad():
        logits = model(golden_input(golden))
    assert list(logits.shape) == golden["output_shape"]
    assert _max_abs_error(logits, golden["logits_first16"]) <= tolerance
    assert logits.argmax(1).tolist() == golden["argmax"]
    per_logit = (logits.double().sum(1) - torch.tensor(golden["row_sum"], dtype=torch.float64)).abs() / logits.shape[1]
    assert per_logit.max().item() <= tolerance


def assert_logits_fp64(model: nn.Module, golden: dict, tolerance: float = 1e-8) -> None:
    """The same in float64, where a wrong epsilon or GELU cannot hide in rounding. Casts the model in place."""
    with torch.no_grad():
        logits = model.double()(golden_input(golden).double())
    assert _max_abs_error(logits, golden["logits_fp64_first16"]) <= tolerance


def assert_intermediates(model: nn.Module, golden: dict, names: dict[str, str], tolerance: float = 1e-5) -> None:
    """Mean and standard deviation of inner outputs; `names` maps golden names to module paths of the model."""
    outputs: dict[str, tuple[Tensor, ...]] = {}

    def record(name: str):
        def hook(_module: nn.Module, _args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[name] = output if isinstance(output, tuple) else (output,)

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(record(name)) for name, path in names.items()]
    with torch.no_grad():
        model(golden_input(golden))
    for hook in hooks:
        hook.remove()
    for name in names:
        # strict=False: an official module may return its attention too.
        for ours, stored in zip(outputs[name], golden["intermediates"][name], strict=False):
            assert ours.numel() == math.prod(stored["shape"]), name
            values = ours.double()
            assert abs(values.mean().item() - stored["mean"]) <= tolerance, name
            assert abs(values.std().item() - stored["std"]) <= tolerance, name


def _max_abs_error(logits: Tensor, stored_rows: list[list[float]]) -> float:
    stored = torch.tensor(stored_rows, dtype=logits.dtype)  # (2, 16)
    return (logits[:, : stored.shape[1]] - stored).abs().max().item()
