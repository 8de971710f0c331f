"""The list of ATen ops that convert: one handler per op, found by the op's name.

A handler gets the builder and the node's arguments: Value for computed tensors, torch.Tensor for constants.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from converters.tflite.builder import Builder, Unsupported

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def lowers(*targets: str, namespace: str = "aten") -> Callable[[Handler], Handler]:
    """Register a handler for ops, named without their namespace: "conv2d.default"."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update({f"{namespace}.{target}": handler for target in targets})
        return handler

    return register


def handle(builder: Builder, target: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run the handler of `target`. Raises Unsupported where the op has a form that it does not know."""
    handler = HANDLERS[target]
    try:
        inspect.signature(handler).bind(builder, *args, **kwargs)
    except TypeError as error:
        raise Unsupported(f"its arguments are not understood ({error})") from error
    return handler(builder, *args, **kwargs)
