"""Holds the values of an evaluation to the shapes that the program declares: Core ML plans its memory by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgevit.errors import ContractError
from edgevit.mil.package import Package, body, sizes_of, walk


def shape_check(package: Package, function: str = "main") -> Callable[[str, str, Any], None]:
    """For `Interpreter.predict(..., observe=shape_check(package))`: ContractError where a value has another shape.

    Dimensions known at run time only match any size; so does a value that is no tensor.
    """
    declared: dict[str, tuple[int | None, ...]] = {}
    for operation in walk(body(package.functions[function])):
        for output in operation.outputs:
            if output.type.WhichOneof("type") == "tensorType":
                declared[output.name] = sizes_of(output.type.tensorType)

    def observe(name: str, kind: str, value: Any) -> None:
        found, wanted = getattr(value, "shape", None), declared.get(name)
        if found is None or wanted is None:
            return
        if len(found) != len(wanted) or any(w is not None and f != w for f, w in zip(found, wanted, strict=True)):
            shown = " x ".join("?" if size is None else str(size) for size in wanted) or "scalar"
            raise ContractError(
                f"{package.program}: {kind} {name!r} gives shape {tuple(found)}, declared is {shown}",
                fix="convert again",
            )

    return observe
