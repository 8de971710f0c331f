"""A functional graph as plain data: JSON for its nodes, tensors by key; nothing in it is code, and nothing is pickled.

A checkpoint stores a deployed network so, and no later version has to find the same nodes again by the same passes.
Reading builds calls of ATen operations from an allow-list, on tensors that are there.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.errors import ExportError
from edgevit.graph.capture import mark_functional
from edgevit.graph.node_names import module_path

if TYPE_CHECKING:
    from torch import Tensor, fx

MAX_NODES = 100_000
_MAX_ELEMENTS = 2**31  # of one tensor inside the graph
_MAX_NESTING = 4  # of lists in an argument
_GETITEM = "getitem"
_NODE_NAME, _PATH = re.compile(r"[^\W\d]\w*"), re.compile(r"\w+(\.\w+)*")
_LONGEST_PATH = 1000
_IMPLIED = {"layout": "torch.strided", "device": "cpu", "pin_memory": "False"}  # of what makes a tensor: left out
_MAKES_TENSORS = ("aten.arange.start_step", "aten.full.default", "aten.scalar_tensor.default")
# What a deployed graph may call, of torch.ops.aten: functions of tensors that draw, read and change nothing.
_OPERATIONS = """
    abs.default acos.default acosh.default adaptive_avg_pool1d.default _adaptive_avg_pool2d.default
    adaptive_avg_pool2d.default _adaptive_avg_pool3d.default adaptive_max_pool2d.default add.Scalar add.Tensor
    addmm.default alias.default amax.default amin.default any.default any.dim any.dims arange.start_step
    argmax.default argmin.default asin.default asinh.default atan.default atan2.default atanh.default
    avg_pool1d.default avg_pool2d.default avg_pool3d.default baddbmm.default batch_norm.default bilinear.default
    bitwise_and.Scalar bitwise_and.Tensor bitwise_not.default bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Scalar
    bitwise_xor.Tensor bmm.default broadcast_to.default cat.default _cdist_forward.default ceil.default
    channel_shuffle.default chunk.default clamp.Tensor clamp.default clamp_max.default clamp_min.default
    clone.default col2im.default concat.default constant_pad_nd.default contiguous.default conv1d.default
    conv2d.default conv2d.padding conv3d.default conv_transpose1d.default conv_transpose2d.input convolution.default
    cos.default cosh.default cosine_similarity.default cumsum.default diagonal.default div.Scalar div.Scalar_mode
    div.Tensor div.Tensor_mode einsum.default elu.default embedding.default eq.Scalar eq.Tensor erf.default
    exp.default expand.default expand_as.default expm1.default fill.Scalar flatten.using_ints flip.default
    floor.default fmod.Scalar fmod.Tensor frobenius_norm.dim full.default full_like.default gather.default ge.Scalar
    ge.Tensor gelu.default glu.default grid_sampler_2d.default group_norm.default gt.Scalar gt.Tensor
    hardsigmoid.default hardswish.default hardtanh.default im2col.default index.Tensor index_put.default
    index_select.default instance_norm.default isinf.default isnan.default layer_norm.default le.Scalar le.Tensor
    leaky_relu.default linalg_vector_norm.default linear.default log.default log10.default log1p.default
    log2.default log_sigmoid.default _log_softmax.default log_softmax.int logical_and.default logical_not.default
    logical_or.default logical_xor.default logsumexp.default lt.Scalar lt.Tensor masked_fill.Scalar matmul.default
    max.dim max_pool1d.default max_pool2d.default max_pool2d_with_indices.default max_pool3d_with_indices.default
    maximum.default mean.default mean.dim min.dim minimum.default mish.default mm.default movedim.int
    movedim.intlist mul.Scalar mul.Tensor _native_batch_norm_legit.no_stats
    _native_batch_norm_legit_no_training.default native_group_norm.default native_layer_norm.default ne.Scalar
    ne.Tensor neg.default norm.ScalarOpt_dim pad.default permute.default pixel_shuffle.default
    pixel_unshuffle.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prelu.default prod.default prod.dim_int
    reciprocal.default reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default relu.default
    relu6.default remainder.Scalar remainder.Tensor repeat.default repeat_interleave.self_int
    replication_pad2d.default replication_pad3d.default reshape.default reshape_as.default rms_norm.default
    roll.default rot90.default round.default rsqrt.default scalar_tensor.default
    scaled_dot_product_attention.default scatter.src scatter.value scatter_add.default scatter_reduce.two select.int
    select_scatter.default selu.default sigmoid.default sign.default silu.default sin.default sinh.default
    slice.Tensor slice_scatter.default _softmax.default softmax.int softplus.default sort.default split.Tensor
    split.sizes split_with_sizes.default sqrt.default square.default squeeze.default squeeze.dim squeeze.dims
    stack.default std.correction std.dim sub.Scalar sub.Tensor sum.default sum.dim_IntList swapaxes.default
    t.default tan.default tanh.default tensor_split.sections tile.default _to_copy.default topk.default
    transpose.int tril.default triu.default trunc.default unbind.int unflatten.int unfold.default unsqueeze.default
    upsample_bicubic2d.vec upsample_bilinear2d.vec upsample_nearest2d.vec var.correction var.dim view.default
    view_as.default where.self
""".split()  # noqa: SIM905  one per line would be the whole file
_ALLOWED = frozenset(f"aten.{name}" for name in _OPERATIONS) | {_GETITEM}


def graph_to_json(module: fx.GraphModule) -> dict[str, Any]:
    """A functional graph as `graph_from_json` reads it: constants in the module's order, nodes in execution order.

    Raises ExportError naming an operation or an argument that has no plain form.
    """
    return {
        "parameters": [name for name, _ in module.named_parameters()],
        "buffers": [name for name, _ in module.named_buffers()],
        "nodes": [_node_to_json(node) for node in module.graph.nodes],
    }


def graph_from_json(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The graph that `graph_to_json` wrote; tensors: its constants by key.

    Every node has its name of then, its shape, and the path of its module; constants have their order, which decides
    the order in files. Raises ValueError for anything that `graph_to_json` does not write, and for operations and sizes
    beyond the bounds.
    """
    builder = _Builder(tensors)
    for name in document["parameters"]:
        builder.add_constant(name, buffer=False)
    for name in document["buffers"]:
        builder.add_constant(name, buffer=True)
    return builder.run(document["nodes"])


def _node_to_json(node: fx.Node) -> dict[str, Any]:
    if node.op == "placeholder":
        value = node.meta["val"]
        return {"name": node.name, "input": {"shape": list(value.shape), "dtype": _dtype_name(value.dtype)}}
    if node.op == "get_attr":
        return {"name": node.name, "constant": node.target}
    if node.op == "output":
        returned = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
        return {"outputs": _argument_to_json(list(returned), node)}
    operation = _GETITEM if node.target is operator.getitem else str(node.target)
    if node.op != "call_function" or operation not in _ALLOWED:
        raise ExportError(
            f"a checkpoint cannot store {operation} at {module_path(node) or node.name}",
            fix="compute it with operations of torch.nn.functional, or keep the network in float",
        )
    document = {"name": node.name, "operation": operation, "arguments": _argument_to_json(list(node.args), node)}
    keywords = {name: value for name, value in node.kwargs.items() if str(value) != _IMPLIED.get(name)}
    if keywords:
        document["keywords"] = {name: _argument_to_json(value, node) for name, value in keywords.items()}
    if module_path(node):
        document["module"] = module_path(node)
    return document


def _argument_to_json(value: Any, node: fx.Node) -> Any:
    """Numbers, booleans, strings and null as they are; what JSON has no form for as an object with one key."""
    import torch

    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": _dtype_name(value)}
    if isinstance(value, (list, tuple)):
        return [_argument_to_json(item, node) for item in value]
    raise ExportError(
        f"a checkpoint cannot store an argument of type {type(value).__name__} of {node.target} at "
        f"{module_path(node) or node.name}",
        fix="compute it with operations of torch.nn.functional, or keep the network in float",
    )


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


class _Builder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        import torch

        self._tensors = tensors
        self._graph = torch.fx.Graph()
        self._nodes: dict[str, fx.Node] = {}
        self._placed: set[str] = set()
        self._root = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())  # which keeps the order of its constants

    def run(self, nodes: Any) -> fx.GraphModule:

        if not isinstance(nodes, list) or not 2 <= len(nodes) <= MAX_NODES:
            raise ValueError(f"a graph is a list of 2 to {MAX_NODES} nodes")
        for document in nodes[:-1]:
            node = self._node(document)
            if node.name != document["name"]:
                raise ValueError(f"{document['name']!r} is no name of a node")
            self._nodes[node.name] = node
        if set(nodes[-1]) != {"outputs"}:
            raise ValueError("the last node is not the output")
        outputs = self._argument(nodes[-1]["outputs"])
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self._graph.lint()
        self._root.graph = self._graph
        mark_functional(self._root)
        return self._root

    def _node(self, document: Any) -> fx.Node:
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            raise ValueError("a node has no name")
        name = document["name"]
        if not _NODE_NAME.fullmatch(name) or keyword.iskeyword(name) or name == "self":
            raise ValueError(f"{name!r} is no name of a node")
        if name in self._nodes:
            raise ValueError(f"two nodes are called {name!r}")
        if "constant" in document:
            return self._constant(name, document["constant"])
        if "input" in document:
            return self._input(name, document["input"])
        return self._call(name, document)

    def _input(self, name: str, facts: Any) -> fx.Node:
        import torch

        node = self._graph.create_node("placeholder", name, name=name)
        shape = tuple(facts["shape"])
        if not all(isinstance(size, int) and size > 0 for size in shape) or math.prod(shape) > _MAX_ELEMENTS:
            raise ValueError(f"the input {name!r} has the shape {shape}")
        node.meta["val"] = torch.empty(shape, dtype=_dtype(facts["dtype"]), device="meta")
        return node

    def add_constant(self, key: Any, *, buffer: bool) -> None:
        """Put a tensor into the module at its path, once."""
        import torch

        _require_path(key)
        if key not in self._tensors or key in self._placed:
            raise ValueError(f"no tensor {key!r}, or two")
        owner, _, attribute = key.rpartition(".")
        holder: torch.nn.Module = self._root
        for part in filter(None, owner.split(".")):
            if not hasattr(holder, part):
                holder.add_module(part, torch.nn.Module())
            holder = holder.get_submodule(part)
        value = self._tensors[key]
        if buffer:
            holder.register_buffer(attribute, value)  # KeyError for a name that modules have themselves
        else:
            holder.register_parameter(attribute, torch.nn.Parameter(value, requires_grad=False))
        self._placed.add(key)

    def _constant(self, name: str, key: Any) -> fx.Node:
        _require_path(key)
        if key not in self._placed:
            self.add_constant(key, buffer=False)  # a second name of a parameter, which modules list once
        node = self._graph.create_node("get_attr", key, name=name)
        node.meta["val"] = self._tensors[key].to("meta")
        return node

    def _call(self, name: str, document: dict[str, Any]) -> fx.Node:
        operation = document["operation"]
        if operation not in _ALLOWED:
            raise ValueError(f"{operation!r} is no operation of a deployed graph")
        arguments = tuple(self._argument(value) for value in document["arguments"])
        keywords = {str(key): self._argument(value) for key, value in document.get("keywords", {}).items()}
        target = _target(operation)
        node = self._graph.create_node("call_function", target, arguments, keywords, name=name)
        try:
            on_meta = {"device": "meta"} if operation in _MAKES_TENSORS else {}
            node.meta["val"] = target(*_values(arguments), **_values(keywords), **on_meta)
        except Exception as error:  # torch raises many unrelated types for arguments that do not fit
            raise ValueError(f"{operation} does not take the arguments of {name!r}") from error
        for value in node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else (node.meta["val"],):
            if not hasattr(value, "numel") or value.numel() > _MAX_ELEMENTS:
                raise ValueError(f"{name!r} gives no tensor of at most {_MAX_ELEMENTS} elements")
        if "module" in document:
            path = document["module"]
            if not isinstance(path, str) or not path.isprintable() or len(path) > _LONGEST_PATH:
                raise ValueError(f"{str(path)[:80]!r} is no path of a module")
            node.meta["nn_module_stack"] = {path: (path, "")}
        return node

    def _argument(self, value: Any, nesting: int = 0) -> Any:
        if nesting > _MAX_NESTING:
            raise ValueError("an argument has too many lists in lists")
        if isinstance(value, list):
            return [self._argument(item, nesting + 1) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node" and content in self._nodes:
            return self._nodes[content]
        if kind == "dtype":
            return _dtype(content)
        if kind == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        raise ValueError(f"an argument is {value}")


def _require_path(path: Any) -> None:
    """Raise ValueError for what is no path of a tensor: torch writes it into the Python code of the graph."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(f"{str(path)[:80]!r} is no path of a tensor")


def _values(arguments: Any) -> Any:
    """The arguments with each node replaced by its result on the meta device."""
    if isinstance(arguments, dict):
        return {key: _values(value) for key, value in arguments.items()}
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(_values(item) for item in arguments)
    return arguments.meta["val"] if hasattr(arguments, "meta") else arguments


def _dtype(name: Any) -> Any:
    import torch

    known = {
        _dtype_name(dtype): dtype for dtype in (torch.float32, torch.float16, torch.int32, torch.int64, torch.bool)
    }
    if name not in known:
        raise ValueError(f"{name!r} is no dtype of a deployed graph")
    return known[name]


def _target(operation: str) -> Any:
    import torch

    if operation == _GETITEM:
        return operator.getitem
    _, name, overload = operation.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)
