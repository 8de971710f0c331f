"""Evaluates an .mlpackage with torch on any machine: a reference for what the program means, not for a device.

    from edgevit.mil import Interpreter
    Interpreter("model.mlpackage").predict({"image": array})

Agreement with it proves graph, constants, layout and labels. It does not prove what a Neural Engine computes,
which evaluates activations by table and accumulates in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from edgevit.errors import ContractError, UsageError, unknown_name
from edgevit.mil.limits import require_function, require_iterations
from edgevit.mil.model_io import Feature, features_of
from edgevit.mil.package import Package, body, open_package
from edgevit.mil.program import Numerics, Plan, Step, evaluate, kind_of, plan, require_supported, settled
from edgevit.mil.table import number

if TYPE_CHECKING:
    from google.protobuf.message import Message

MODES = {
    "fp32": Numerics(torch.float32, rounds=False),
    "declared": Numerics(torch.float32, rounds=True),
    "fp64": Numerics(torch.float64, rounds=False),
}
Observer = Callable[[str, str, Any], None]  # name of a value, type of its producer, the value


class Slot:
    """The place of one state: operations read and replace its value."""

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


class State:
    """The states of a stateful model between predictions; all zero at first."""

    def __init__(self, slots: dict[str, Slot]) -> None:
        self.slots = slots

    def read_state(self, name: str) -> np.ndarray:
        """A copy of the state."""
        return self._slot(name).value.numpy().copy()

    def write_state(self, name: str, value: np.ndarray) -> None:
        """Replace the state by an array of its shape."""
        slot = self._slot(name)
        tensor = torch.as_tensor(np.array(value)).to(slot.value.dtype)
        if tensor.shape != slot.value.shape:
            raise UsageError(f"state {name} has the shape {tuple(slot.value.shape)}, not {tuple(tensor.shape)}")
        slot.value = tensor

    def _slot(self, name: str) -> Slot:
        if name not in self.slots:
            raise unknown_name("state", name, self.slots)
        return self.slots[name]


class Interpreter:
    """One function of an ML Program, ready to predict; `predict` takes and gives what coremltools' MLModel does.

    mode: "fp32" computes in float32 whatever is declared (checks the graph), "declared" rounds each result to
    its declared type (shows fp16 rounding and overflow), "fp64" computes in float64. Floating outputs have the
    declared type in `declared` mode and the mode's own type otherwise. function: of a multifunction package, by
    default the package's default. Raises ContractError for a malformed package or one with values beyond
    `limits.MAX_ELEMENTS`, and ConversionError naming every operation that has no implementation.
    """

    def __init__(self, package: Package | Path | str, *, mode: str = "fp32", function: str | None = None) -> None:
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        self.package = package if isinstance(package, Package) else open_package(package)
        self.mode = mode
        self.function = self._function_name(function)
        self._numerics = MODES[mode]
        declared = self.package.functions[self.function]
        block = body(declared)
        where = f"{self.package.path}, function {self.function}"
        require_supported(block, where)
        require_function(declared, block, where)
        description = self._description()
        types = {value.name: value.type for value in declared.inputs}
        self.inputs: tuple[Feature, ...] = features_of(description.input, types)
        self.outputs: tuple[Feature, ...] = features_of(description.output, {})
        self._states = {name: kind for name, kind in types.items() if kind.WhichOneof("type") == "stateType"}
        with torch.inference_mode():
            self._plan = plan(self.package, block, self._numerics)
        if unknown := [feature.name for feature in self.outputs if feature.name not in self._plan.outputs]:
            raise ContractError(f"{self.package.path} declares outputs that its program lacks: {', '.join(unknown)}")

    @overload
    def predict(
        self, data: Mapping[str, Any], state: State | None = None, *, observe: Observer | None = None
    ) -> dict[str, Any]: ...

    @overload
    def predict(
        self, data: Sequence[Mapping[str, Any]], state: State | None = None, *, observe: Observer | None = None
    ) -> list[dict[str, Any]]: ...

    def predict(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        state: State | None = None,
        *,
        observe: Observer | None = None,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Outputs by name for inputs by name, or a list of them for a list.

        Images may be PIL images or arrays (H, W, 3), (H, W), (3, H, W) or (1, 3, H, W) in RGB and 0..255, also
        where the program wants BGR. observe: called with every intermediate value. Raises UsageError.
        """
        if not isinstance(data, Mapping):
            return [self.predict(item, state, observe=observe) for item in data]
        if self._states and state is None:
            raise UsageError("a stateful model needs a state", fix="pass state=interpreter.make_state()")
        self._iterations = 0  # of all loops
        with torch.inference_mode():
            values: dict[str, Any] = dict(state.slots) if state else {}
            values.update(self._operands(data))
            results = self._run(self._plan, values, observe)
            named = dict(zip(self._plan.outputs, results, strict=True))
            exact = self._numerics.rounds
            return {feature.name: feature.to_user(named[feature.name], exact) for feature in self.outputs}

    def make_state(self) -> State:
        """Fresh states, all zero, for a model that keeps some; empty for one that does not."""
        slots = {}
        for name, declared in self._states.items():
            tensor = declared.stateType.wrappedType.tensorType
            zeros = torch.zeros([dimension.constant.size for dimension in tensor.dimensions])
            slots[name] = Slot(self._numerics.settle(zeros, kind_of(declared)))
        return State(slots)

    def _function_name(self, wanted: str | None) -> str:
        names = self.package.functions
        name = wanted or self.package.spec.description.defaultFunctionName or "main"
        if name in names:
            return name
        if wanted is None and len(names) == 1:
            return next(iter(names))
        raise unknown_name("function", name, names)

    def _description(self) -> Message:
        """Inputs and outputs of the function: the model's own unless it has several."""
        description = self.package.spec.description
        return next((item for item in description.functions if item.name == self.function), description)

    def _operands(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """The user's inputs as the program takes them, absent optional ones filled in."""
        known = {feature.name for feature in self.inputs}
        for name in data:
            if name not in known:
                raise unknown_name("input", name, known)
        return {
            feature.name: self._numerics.settle(feature.to_tensor(data.get(feature.name)), feature.kind)
            for feature in self.inputs
        }

    def _run(self, block: Plan, values: dict[str, Any], observe: Observer | None) -> list[Any]:
        """Evaluate a block in `values`, which it fills and empties as it goes; its outputs in order."""
        values.update(block.constants)
        for step in block.steps:
            if step.function is None:
                results = self._control_flow(step, values, observe)
            else:
                results = evaluate(step, values, self._numerics)
            if observe is not None:
                for name, value in results.items():
                    observe(name, step.type, value)
            values.update(results)
            for name in step.free:
                del values[name]
        return [values[name] for name in block.outputs]

    def _control_flow(self, step: Step, values: dict[str, Any], observe: Observer | None) -> dict[str, Any]:
        """cond runs one of its two blocks, while_loop its second as long as its first returns true."""
        if step.type == "cond":
            predicate = step.inputs["pred"]
            assert isinstance(predicate, str)  # one value; only variadic inputs are lists
            chosen = step.blocks[0 if number(values[predicate]) else 1]
            results = self._run(chosen, dict(values), observe)
        else:
            condition, repeated = step.blocks
            results = [values[name] for name in step.inputs["loop_vars"]]
            while number(self._run(condition, _bound(condition, results, values), observe)[0]):
                self._iterations += 1
                require_iterations(self._iterations)
                results = self._run(repeated, _bound(repeated, results, values), observe)
        return settled(step, results, self._numerics)


def _bound(block: Plan, arguments: list[Any], outer: dict[str, Any]) -> dict[str, Any]:
    """What a block sees: the values around it and its own inputs."""
    return {**outer, **dict(zip(block.inputs, arguments, strict=True))}
