"""A user's own network: from "path/to/file.py:factory" to a module, and the spec of any module."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import UsageError, unknown_name
from edgevit.models.counting import count_params
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, class_logits, image_input, logit_map

if TYPE_CHECKING:
    from torch import nn
_DEFAULT_SIZE = 224


def is_file_model(model: str) -> bool:
    """Whether this names a user's own file, not a model of `edgevit list`."""
    return ":" in model or model.endswith(".py")


def split_factory(model: str) -> tuple[Path, str]:
    """ "path/to/file.py:factory" -> the file and the name in it, "" if there is none."""
    path, _, attribute = model.rpartition(":") if ":" in model else (model, "", "")
    return Path(path), attribute


def build_user_model(model: str, num_classes: int | None, input_size: int | None) -> tuple[nn.Module, ModelSpec]:
    """The network of "path/to/file.py:factory" and its spec; the factory gets what it takes of classes and size.

    Raises UsageError for a file, a name, a factory or a network that cannot be used.
    """
    path, attribute = split_factory(model)
    if not attribute:
        raise UsageError(f"{model} names no factory", fix=f"write {path}:build, a function that returns an nn.Module")
    target = _import_attribute(path, attribute)
    if isinstance(target, ModelSpec):
        spec = target.for_task(num_classes, input_size)
        return spec.instantiate(), spec
    size = input_size or _DEFAULT_SIZE
    module = _call_factory(target, model, num_classes, size)
    name = attribute if attribute not in ("build", "model", "create") else path.stem
    return module, describe_module(module, name=name, input_size=size)


def _import_attribute(path: Path, attribute: str) -> Any:
    """Run a user's own Python file and take one name from it."""
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="give path/to/file.py:factory, or a name of `edgevit list`")
    found = importlib.util.spec_from_file_location(f"edgevit_user_{path.stem}", path)
    if found is None or found.loader is None:
        raise UsageError(f"{path} is no Python file", fix="give path/to/file.py:factory")
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(path.resolve().parent))  # so that the file can import its neighbours
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"{path} fails when imported: {type(error).__name__}: {error}", fix="run it on its own first"
        ) from error
    finally:
        sys.path.pop(0)
    if not hasattr(module, attribute):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise unknown_name(f"name in {path}", attribute, own or ["(it defines none)"])
    return getattr(module, attribute)


def _call_factory(factory: Callable[..., Any], model: str, num_classes: int | None, size: int) -> nn.Module:
    """Call a user's factory with what it takes of num_classes and input_size."""
    from torch import nn

    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UsageError(f"{model} is a {type(factory).__name__}", fix="name a function that returns an nn.Module")
    offered = {"num_classes": num_classes, "input_size": size}
    taken = inspect.signature(factory).parameters
    module = factory(**{key: value for key, value in offered.items() if key in taken and value is not None})
    if not isinstance(module, nn.Module):
        raise UsageError(f"{model} returned a {type(module).__name__}", fix="return an nn.Module")
    return module


def describe_module(
    module: nn.Module, *, name: str, input_size: int = _DEFAULT_SIZE, preprocess: Preprocess | None = None
) -> ModelSpec:
    """The spec of any module that maps images (N, 3, S, S) to logits (N, C) or (N, C, S, S).

    The task and the class count come from the shape of its output. Raises UsageError for other outputs.
    """
    import torch

    from edgevit.graph.capture import example_input

    inputs = image_input(input_size)
    module.eval()
    with torch.no_grad():
        try:
            output = module(example_input(inputs[0].shape))
        except Exception as error:
            raise UsageError(
                f"{name} cannot take an image {inputs[0].shape}: {type(error).__name__}: {error}"[:400],
                fix="give --input-size; the model must take one normalised float32 batch (N, 3, S, S)",
            ) from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
    if shape is None or len(shape) not in (2, 4):
        found = shape or type(output).__name__
        raise UsageError(
            f"{name} returns {found}", fix="return one tensor of logits: (N, classes) or (N, classes, H, W)"
        )
    segments = len(shape) == 4
    if segments and shape[2:] != (input_size, input_size):
        raise UsageError(f"{name} returns a map {shape}", fix=f"enlarge it to the input's {input_size}x{input_size}")
    return ModelSpec(
        name=name,
        task=Task.SEGMENT if segments else Task.CLASSIFY,
        tier=Tier.EDGE,
        build=None,
        inputs=inputs,
        outputs=logit_map(shape[1], input_size) if segments else class_logits(shape[1]),
        preprocess=preprocess or Preprocess.for_input(input_size),
        params=count_params(module),
        macs=0,
        paper="",
    )
