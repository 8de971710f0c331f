"""Which constants a delegate owns: those that it packs while it is built, and no others (see packing.py).

All others come in from the program as inputs of the delegate: that memory stays for as long as the model does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from edgevit.compat.executorch import partitioner_configs, prelu_config
from edgevit.graph.edit import source_of

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram


def xnnpack_partitioner() -> Any:
    """ExecuTorch's partitioner for XNNPACK, but slopes of PReLU stay outside: XNNPACK reads them in place."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    taken_by_xnnpack: Any = prelu_config()

    class OutsidePreluConfig(taken_by_xnnpack):
        def check_constraints(self, node: fx.Node, ep: ExportedProgram) -> bool:
            # Its passes take channels-last feature maps alone, and fail on tokens.
            return source_of(node).meta["val"].dim() == 4 and super().check_constraints(node, ep)

        def get_node_and_deps(self, node: fx.Node, ep: ExportedProgram) -> list[fx.Node]:
            return [node]

    configs = [OutsidePreluConfig if config is taken_by_xnnpack else config for config in partitioner_configs()]
    return XnnpackPartitioner(configs)


# Operations that ExecuTorch lowers to layers, and where among their arguments the weight is.
_LAYERS = dict.fromkeys(("conv1d", "conv2d", "conv_transpose2d", "convolution", "linear", "mm", "matmul"), 1)
_LAYERS |= {"addmm": 2}
_GROUPS = 6  # the place of the groups among the arguments of a convolution


def with_own_constants(exported: ExportedProgram) -> ExportedProgram:
    """The program with a constant of its own for each bias, each layout of a weight, and each user that is no layer.

    A delegate owns the constants of its layers: what else reads one there would read it in place. It stores a bias
    once, quantized for the first layer that reads it, and a weight once, as the first layer wants it laid out.
    """
    shared = {name: users for name, users in _readers(exported).items() if len(users) > 1}
    if not shared:
        return exported
    exported = copy.deepcopy(exported)
    for name, users in _readers(exported).items():
        if name in shared:
            for nodes in users[1:]:
                _give_own(exported, name, nodes)
    exported.graph_module.recompile()
    return exported


def _readers(exported: ExportedProgram) -> dict[str, list[list[fx.Node]]]:
    """Placeholders of constants that layers use -> their users, grouped by which may share one constant."""
    constants = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.target is not None}
    found = {}
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in constants and any(_layer(user) in _LAYERS for user in node.users):
            groups: dict[Hashable, list[fx.Node]] = {}
            for user in node.users:
                groups.setdefault(_use(user, node), []).append(user)
            found[node.name] = list(groups.values())
    return found


def _use(user: fx.Node, constant: fx.Node) -> Hashable:
    """Equal for users of a constant that may share it."""
    layer = _layer(user)
    places = [index for index, argument in enumerate(user.args) if argument is constant]
    if layer in _LAYERS and places == [_LAYERS[layer]]:
        return layer, user.args[_GROUPS] if len(user.args) > _GROUPS else 1
    return user


def _layer(node: fx.Node) -> str:
    """ "conv2d" of aten.conv2d.default."""
    return str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""


def _give_own(exported: ExportedProgram, name: str, users: list[fx.Node]) -> None:
    """Let these users of a constant read a copy, which stands behind it among the program's inputs."""
    from torch.export.graph_signature import InputSpec, TensorArgument

    constant = next(node for node in exported.graph.find_nodes(op="placeholder") if node.name == name)
    specs = exported.graph_signature.input_specs
    place = next(i for i, spec in enumerate(specs) if spec.arg.name == name)
    taken = {node.name for node in exported.graph.nodes} | {spec.target for spec in specs}
    number = next(i for i in itertools.count(1) if not {f"{name}_{i}", f"{specs[place].target}_{i}"} & taken)
    target = f"{specs[place].target}_{number}"
    for tensors in (exported.state_dict, exported.constants):
        if specs[place].target in tensors:
            tensors[target] = copy.deepcopy(tensors[specs[place].target])
    with exported.graph.inserting_after(constant):
        own = exported.graph.create_node("placeholder", f"{name}_{number}", name=f"{name}_{number}")
    own.meta = dict(constant.meta)
    for user in users:
        user.replace_input_with(constant, own)
    specs.insert(place + 1, InputSpec(specs[place].kind, TensorArgument(own.name), target, specs[place].persistent))
