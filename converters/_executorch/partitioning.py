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


def with_own_constants(exported: ExportedProgram) -> ExportedProgram:
    """The program with constants of their own for layers' biases, and for all that reads a weight or bias otherwise.

    A delegate owns the whole of a layer: what else reads its weight there would read it in place. And it stores a bias
    once, on the int8 grid of the first layer that reads it.
    """
    shared = {name: readers for name, readers in _readers(exported).items() if len(readers) > 1}
    if not shared:
        return exported
    exported = copy.deepcopy(exported)
    for name, readers in _readers(exported).items():
        if name in shared:
            for number, nodes in enumerate(readers[1:], 1):
                _give_own(exported, name, number, nodes)
    exported.graph_module.recompile()
    return exported


def _readers(exported: ExportedProgram) -> dict[str, list[list[fx.Node]]]:
    """Name of each constant's placeholder -> its readers, those together that may share one constant."""
    constants = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.target is not None}
    found = {}
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in constants:
            weights = [user for user in node.users if _reads_as(user, node, 1)]
            biases = [[user] for user in node.users if _reads_as(user, node, 2)]
            others = [user for user in node.users if user not in weights and [user] not in biases]
            found[node.name] = [readers for readers in (weights, *biases, others) if readers]
    return found


def _reads_as(user: fx.Node, constant: fx.Node, place: int) -> bool:
    """Whether a node is a layer that takes a constant as its weight (place 1) or bias (2), and as nothing else."""
    layer = str(user.target).split(".")[1:2]
    if layer not in (["conv1d"], ["conv2d"], ["conv_transpose2d"], ["convolution"], ["linear"]):
        return False
    return [index for index, argument in enumerate(user.args) if argument is constant] == [place]


def _give_own(exported: ExportedProgram, name: str, number: int, readers: list[fx.Node]) -> None:
    """Let these readers of a constant read a copy, which stands behind it among the program's inputs."""
    from torch.export.graph_signature import InputSpec, TensorArgument

    constant = next(node for node in exported.graph.find_nodes(op="placeholder") if node.name == name)
    specs = exported.graph_signature.input_specs
    place = next(i for i, spec in enumerate(specs) if spec.arg.name == name)
    target = f"{specs[place].target}_{number}"
    for tensors in (exported.state_dict, exported.constants):
        if specs[place].target in tensors:
            tensors[target] = copy.deepcopy(tensors[specs[place].target])
    with exported.graph.inserting_after(constant):
        own = exported.graph.create_node("placeholder", f"{name}_{number}", name=f"{name}_{number}")
    own.meta = dict(constant.meta)
    for reader in readers:
        reader.replace_input_with(constant, own)
    specs.insert(place + 1, InputSpec(specs[place].kind, TensorArgument(own.name), target, specs[place].persistent))
