"""A MIL function made ready to run: constants as tensors, operations in order, and when each value can be dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgevit.errors import ContractError, ConversionError
from edgevit.mil.limits import require_result
from edgevit.mil.ops import OPS
from edgevit.mil.package import DATA_TYPES, Package, walk

if TYPE_CHECKING:
    from google.protobuf.message import Message

CONTROL_FLOW = frozenset({"cond", "while_loop"})
# Parameters that are tuples in MIL: one value is a list of one.
_VARIADIC = frozenset({"values", "ref_tensors", "begins", "ends", "end_masks", "loop_vars"})
# torch has little for unsigned integers beyond 8 bits; the next wider signed type holds every value.
_INTEGERS = {
    "bool": torch.bool,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint64": torch.int64,
}


@dataclass(frozen=True, slots=True)
class Numerics:
    """How floats are held (compute) and whether each result is rounded to its declared half precision."""

    compute: torch.dtype
    rounds: bool

    def settle(self, value: Any, kind: str) -> Any:
        """A result as the program declares it; what is no tensor (labels, states) passes."""
        if not isinstance(value, Tensor):
            return value
        if self.rounds and kind == "fp16":
            value = value.to(torch.float16)  # beyond 65504 this is infinite, as on a device
        return value.to(_INTEGERS.get(kind, self.compute))


@dataclass(slots=True)
class Step:
    """One operation: parameter -> name(s) of values, (name, kind) of results, names that nothing needs after it."""

    type: str
    function: Callable[..., Any] | None  # None: control flow
    inputs: dict[str, str | list[str]]
    outputs: tuple[tuple[str, str], ...]
    blocks: tuple[Plan, ...] = ()
    free: tuple[str, ...] = ()

    def names(self) -> Iterator[str]:
        """Every value that it reads, those of its blocks included."""
        for argument in self.inputs.values():
            yield from [argument] if isinstance(argument, str) else argument
        for plan in self.blocks:
            yield from plan.names()


@dataclass(slots=True)
class Plan:
    """A block: names of its inputs and outputs, its constants and its steps."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def names(self) -> Iterator[str]:
        """Every value that its steps and outputs read."""
        for step in self.steps:
            yield from step.names()
        yield from self.outputs


def kind_of(declared: Message) -> str:
    """Element type of a ValueType or of the state it wraps: "fp16"; "" if it is no tensor."""
    if declared.WhichOneof("type") == "stateType":
        return kind_of(declared.stateType.wrappedType)
    if declared.WhichOneof("type") != "tensorType":
        return ""
    return DATA_TYPES[declared.tensorType.dataType].name


def require_supported(block: Message, where: str) -> None:
    """Raises ConversionError naming every operation of the block, nested ones too, that has no entry in the table."""
    counts = Counter(operation.type for operation in walk(block))
    missing = sorted(set(counts) - set(OPS) - CONTROL_FLOW - {"const"})
    if missing:
        raise ConversionError(
            f"{where}: {len(missing)} unsupported op(s): "
            + ", ".join(f"{name} ({counts[name]} times)" for name in missing),
            fix="the interpreter evaluates image models: no recurrent, random or list operations, no custom layers",
        )


def plan(package: Package, block: Message, numerics: Numerics, outer: dict[str, Any] | None = None) -> Plan:
    """Prepare a block. `outer` holds the constants of the blocks around it."""
    result = Plan(tuple(value.name for value in block.inputs), tuple(block.outputs))
    visible = dict(outer or {})
    for operation in block.operations:
        _add(result, visible, package, operation, numerics)
    used = set(result.names())
    result.constants = {name: value for name, value in result.constants.items() if name in used}
    _mark_last_uses(result)
    return result


def _add(result: Plan, visible: dict[str, Any], package: Package, operation: Message, numerics: Numerics) -> None:
    """One operation becomes constants, if all that it needs is constant weights, or a step."""
    outputs = tuple((value.name, kind_of(value.type)) for value in operation.outputs)
    if operation.type == "const":
        values = {outputs[0][0]: literal(package, operation.attributes["val"], numerics)}
    else:
        step = Step(operation.type, OPS.get(operation.type), {}, outputs)
        step.inputs = _arguments(package, operation, numerics, result.constants, visible)
        step.blocks = tuple(plan(package, block, numerics, visible) for block in operation.blocks)
        if not operation.type.startswith("constexpr_"):
            result.steps.append(step)
            return
        values = evaluate(step, visible, numerics)
    result.constants.update(values)
    visible.update(values)


def _arguments(
    package: Package, operation: Message, numerics: Numerics, constants: dict[str, Any], visible: dict[str, Any]
) -> dict[str, str | list[str]]:
    """Parameter -> value names. Values written in place (iOS16's constexpr attributes too) become constants."""
    found: dict[str, list[str]] = {}

    def inline(parameter: str, value: Message) -> str:
        name = f"{operation.type}.{parameter}.{len(visible)}"  # MIL's identifiers have no dots
        constants[name] = visible[name] = literal(package, value, numerics)
        return name

    for parameter, argument in operation.inputs.items():
        found[parameter] = []
        for binding in argument.arguments:
            is_name = binding.WhichOneof("binding") == "name"
            found[parameter].append(binding.name if is_name else inline(parameter, binding.value))
    if operation.type.startswith("constexpr_"):
        for parameter, value in operation.attributes.items():
            if parameter != "name":
                found[parameter] = [inline(parameter, value)]
    return {key: names if key in _VARIADIC else names[0] for key, names in found.items() if names or key in _VARIADIC}


def evaluate(step: Step, values: dict[str, Any], numerics: Numerics) -> dict[str, Any]:
    """Results of an operation by name, each settled to its declared type. Raises ContractError for impossible ones."""
    assert step.function is not None  # control flow is the interpreter's
    arguments = {
        parameter: values[name] if isinstance(name, str) else [values[item] for item in name]
        for parameter, name in step.inputs.items()
    }
    try:
        require_result(step.type, arguments)
        results = step.function(**arguments)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        # What torch raises for impossible arguments; the program, not the operation, is at fault.
        reason = str(error).partition("\n")[0][:200]
        raise ContractError(
            f"{step.type} {step.outputs[0][0]!r} cannot be evaluated: {reason}", fix="convert again"
        ) from error
    if not isinstance(results, tuple):
        results = (results,)
    if len(results) != len(step.outputs):
        raise ContractError(
            f"{step.type} {step.outputs[:1]} gives {len(results)} results, {len(step.outputs)} are declared",
            fix="convert again",
        )
    return settled(step, results, numerics)


def settled(step: Step, results: Iterable[Any], numerics: Numerics) -> dict[str, Any]:
    """The step's results by name, as their declared types have them."""
    return {name: numerics.settle(value, kind) for (name, kind), value in zip(step.outputs, results, strict=True)}


def literal(package: Package, value: Message, numerics: Numerics) -> Any:
    """A constant as operations take it: a tensor, a string, or a list of those."""
    return _as_operand(package.constant(value), kind_of(value.type), numerics)


def _as_operand(value: Any, kind: str, numerics: Numerics) -> Any:
    if isinstance(value, list):
        return [item if isinstance(item, str) else item.item() for item in value]
    if isinstance(value, str):
        return str(value)
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        return [str(item) for item in array.reshape(-1)]
    if array.dtype.kind == "u" and array.itemsize > 1:
        array = array.astype(np.int64)
    return numerics.settle(torch.tensor(array), kind)


def _mark_last_uses(result: Plan) -> None:
    """Record for each step which values of this block have no later user; constants and inputs stay."""
    kept = set(result.outputs)
    for step in reversed(result.steps):
        candidates = set(step.names()) | {name for name, _ in step.outputs}
        step.free = tuple(candidates - kept - set(result.constants))
        kept |= candidates
    own = {name for step in result.steps for name, _ in step.outputs}
    for step in result.steps:
        step.free = tuple(name for name in step.free if name in own)
