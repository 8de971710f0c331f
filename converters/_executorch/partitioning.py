"""Which constants a delegate owns: those that it packs while it is built, and no others (see packing.py).

All others come in from the program as inputs of the delegate: that memory stays for as long as the model does.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram


def xnnpack_partitioner() -> Any:
    """ExecuTorch's partitioner for XNNPACK, but slopes of PReLU stay outside: XNNPACK reads them in place."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.node_configs import PreluConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class OutsidePreluConfig(PreluConfig):
        def check_constraints(self, node: fx.Node, ep: ExportedProgram) -> bool:
            # Its passes take channels-last maps alone, and fail on tokens.
            return node.args[0].meta["val"].dim() == 4 and super().check_constraints(node, ep)

        def get_node_and_deps(self, node: fx.Node, ep: ExportedProgram) -> list[fx.Node]:
            return [node]

    configs = [OutsidePreluConfig if config is PreluConfig else config for config in ALL_PARTITIONER_CONFIGS]
    return XnnpackPartitioner(configs)


def with_own_operands(exported: ExportedProgram) -> ExportedProgram:
    """The program with a second constant for whatever reads one that is also the weight or bias of a layer.

    A delegate owns the whole of a layer, and what else reads its weight there would read it in place.
    """
    shared = [name for name, packed, others in _constants(exported) if packed and others]
    if not shared:
        return exported
    exported = copy.deepcopy(exported)
    for name, _, others in _constants(exported):
        if name in shared:
            _give_own(exported, name, others)
    exported.graph_module.recompile()
    return exported


def _constants(exported: ExportedProgram) -> list[tuple[str, bool, list[fx.Node]]]:
    """Name of each constant's placeholder, whether layers pack it, and the nodes that read it otherwise."""
    own = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.target is not None}
    found = []
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in own:
            others = [user for user in node.users if not _packs(user, node)]
            found.append((node.name, len(others) < len(node.users), others))
    return found


def _packs(user: fx.Node, constant: fx.Node) -> bool:
    """Whether a node is a layer that takes a constant as its weight or bias, and as nothing else."""
    layer = str(user.target).split(".")[1:2]
    return (
        layer in (["conv1d"], ["conv2d"], ["conv_transpose2d"], ["convolution"], ["linear"])
        and constant in user.args[1:3]
        and constant is not user.args[0]
    )


def _give_own(exported: ExportedProgram, name: str, readers: list[fx.Node]) -> None:
    """Let the readers of a constant read a copy, which stands behind it among the program's inputs."""
    from torch.export.graph_signature import InputSpec, TensorArgument

    constant = next(node for node in exported.graph.find_nodes(op="placeholder") if node.name == name)
    specs = exported.graph_signature.input_specs
    place = next(i for i, spec in enumerate(specs) if spec.arg.name == name)
    target = f"{specs[place].target}_operand"
    for tensors in (exported.state_dict, exported.constants):
        if specs[place].target in tensors:
            tensors[target] = copy.deepcopy(tensors[specs[place].target])
    with exported.graph.inserting_after(constant):
        own = exported.graph.create_node("placeholder", f"{name}_operand", name=f"{name}_operand")
    own.meta = dict(constant.meta)
    for reader in readers:
        reader.replace_input_with(constant, own)
    specs.insert(place + 1, InputSpec(specs[place].kind, TensorArgument(own.name), target, specs[place].persistent))
