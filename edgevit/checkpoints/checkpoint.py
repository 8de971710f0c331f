"""Trained weights in and out: our own checkpoints with metadata, and the containers that papers publish.

Reading runs no code of the file (see torchfile.py). Ours are also plain `torch.load(path, weights_only=True)`
files: {"edgevit_metadata": JSON text, "state_dict": {name: tensor}}.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.checkpoints.metadata import CheckpointMetadata
from edgevit.checkpoints.torchfile import StoredTensor, TorchFile, TorchFileError, read_torch_file
from edgevit.errors import MissingDependency, UsageError
from edgevit.infra.files import write_bytes

log = logging.getLogger(__name__)

_METADATA_KEY = "edgevit_metadata"
_OLD_METADATA_KEY = "edgevit_card"  # of edgevit 0.1 before its documents had version 2; the content is the same
_STATE_KEY = "state_dict"
_INT8_KEY, _INT8_GRAPH_KEY = "edgevit_int8", "edgevit_int8_graph"
_CONTAINERS = ("state_dict", "model", "model_state_dict")  # trained weights, in the order we look
_EMA_CONTAINERS = ("state_dict_ema", "model_ema")  # their moving average
_PROGRESS_KEY, _PROGRESS_PREFIX = "edgevit_progress", "model."  # of a run that has not ended
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DistributedDataParallel and torch.compile
_MAX_NESTING = 4
_LISTED = 8  # keys an error names per kind
_GIVE_WEIGHTS = "give a checkpoint with a state dict: torch.save(model.state_dict(), path)"


@dataclass(frozen=True, slots=True)
class Int8Part:
    """The int8 network beside the float one that it was made from: its graph as JSON text, its tensors by key.

    graph is "" in a file of an edgevit that did not store it yet.
    """

    graph: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights on the CPU (floats as float32), metadata if the file is ours, and the file they came from.

    int8: None in a float checkpoint.
    """

    state_dict: dict[str, Tensor]
    metadata: CheckpointMetadata | None
    sha256: str
    path: Path
    int8: Int8Part | None = None


def read_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Read a .safetensors file or one that torch.save wrote, whatever container the weights lie in.

    Weights are the mapping itself or its "state_dict", "model" or "model_state_dict", in this order, nested
    or not; the moving average ("state_dict_ema", "model_ema") is taken with `ema`, or when nothing else is
    there. A "module." that all names share is cut off. Raises UsageError for a file that is missing, damaged,
    in another format or without weights.
    """
    path = Path(path)
    data = _read_file(path)
    try:
        weights, metadata, int8 = _safetensors(data) if path.suffix == ".safetensors" else _torch_weights(data, ema)
    except TorchFileError as error:
        raise UsageError(f"cannot read checkpoint {path}: {error.reason}", fix=error.fix) from error
    return Checkpoint(weights, metadata, hashlib.sha256(data).hexdigest(), path, int8)


def load_weights(
    model: nn.Module, weights: str | Path | Checkpoint | Mapping[str, Tensor], *, replace_head: bool = False
) -> None:
    """Copy weights into a model with the same names and shapes; on any error the model stays as it was.

    replace_head keeps the model's own values for a classifier whose class count differs.
    Raises UsageError that lists every kind of mismatch, or the tensors that are not finite.
    """
    if isinstance(weights, str | Path):
        weights = read_checkpoint(weights)
    source = f"weights {weights.path}" if isinstance(weights, Checkpoint) else "the weights"
    found = dict(weights.state_dict if isinstance(weights, Checkpoint) else weights)
    own = model.state_dict()
    head = _resized_head(model, found)
    if replace_head and head:
        log.info("new head for %d classes: %s", len(own[head[0]]), ", ".join(head))
        found.update({name: own[name] for name in head})
    for name in own.keys() - found.keys():
        if name.endswith("num_batches_tracked"):  # absent from checkpoints of torch < 0.4.1; unused in inference
            found[name] = own[name]
    _check_fit(own, found, f"{source} do not fit {type(model).__name__}", head)
    _check_finite(found, source)
    model.load_state_dict(found)


def save_checkpoint(
    path: str | Path, model: nn.Module, metadata: CheckpointMetadata, int8: Int8Part | None = None
) -> None:
    """Write the model's weights, its metadata and its int8 network as one file, whole or not at all.

    Raises StorageError.
    """
    # clone: a view would drag its whole storage into the file.
    content: dict[str, Any] = {_METADATA_KEY: metadata.to_json(), _STATE_KEY: _detached(model.state_dict())}
    if int8 is not None:
        content |= {_INT8_KEY: _detached(int8.tensors), _INT8_GRAPH_KEY: int8.graph}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(Path(path), buffer.getvalue())


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"checkpoint {path} is a folder", fix="name the file inside it")
    if not path.exists():
        raise UsageError(f"no checkpoint {path}", fix="check the path")
    if not path.is_file():  # a pipe or a device may have no end
        raise UsageError(f"checkpoint {path} is not a regular file", fix="copy it to a file first")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read checkpoint {path}: {error.strerror}", fix="check its permissions") from error


def _safetensors(data: bytes) -> tuple[dict[str, Tensor], None, None]:
    try:
        import safetensors
        from safetensors.torch import load
    except ImportError:
        raise MissingDependency(
            "reading .safetensors needs the safetensors library", fix="pip install safetensors"
        ) from None
    try:
        tensors = load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype torch does not have
        raise TorchFileError("it is no whole .safetensors file") from error
    return _strip_wrapper({name: _as_float32(tensor) for name, tensor in tensors.items()}), None, None


def _torch_weights(data: bytes, ema: bool) -> tuple[dict[str, Tensor], CheckpointMetadata | None, Int8Part | None]:
    file = read_torch_file(data)
    stored = _find_weights(file.content, ema)
    content = file.content
    assert isinstance(content, dict)  # or it would have no weights
    metadata = _metadata(content)
    int8 = content.get(_INT8_KEY, {}) if metadata is not None else {}
    if _PROGRESS_KEY in content:
        stored = {name.removeprefix(_PROGRESS_PREFIX): value for name, value in stored.items()}
    odd = [name for name, value in (*stored.items(), *int8.items()) if not isinstance(value, StoredTensor)]
    if odd:
        raise TorchFileError(f"these entries are no dense tensors: {_listing(odd)}", _GIVE_WEIGHTS)
    part = None
    if int8:
        graph = content.get(_INT8_GRAPH_KEY, "")
        part = Int8Part(graph if isinstance(graph, str) else "", _materialise(file, int8, len(data)))
    return _strip_wrapper(_materialise(file, stored, len(data))), metadata, part


def _find_weights(content: object, ema: bool) -> dict[str, Any]:
    """The mapping of names to tensors inside `content`, looking through at most `_MAX_NESTING` containers."""
    order = (*_EMA_CONTAINERS, *_CONTAINERS) if ema else (*_CONTAINERS, *_EMA_CONTAINERS)
    if not isinstance(content, dict):
        raise TorchFileError("it holds a pickled object, not weights", _GIVE_WEIGHTS)
    for _ in range(_MAX_NESTING):
        inner: dict[Any, Any] | None = next((content[key] for key in order if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    named = all(isinstance(name, str) for name in content)
    if not named or not any(isinstance(value, StoredTensor) for value in content.values()):
        raise TorchFileError(f"no weights under {', '.join(order)}", _GIVE_WEIGHTS)
    return content


def _materialise(file: TorchFile, stored: Mapping[str, StoredTensor], size_bytes: int) -> dict[str, Tensor]:
    """Tensors as float32 or integers. Strides may repeat elements, so their count is bounded by the file."""
    tensors: dict[str, Tensor] = {}
    elements = 0
    for name, reference in stored.items():
        tensor = file.tensor(reference)
        elements += tensor.numel()
        if elements > size_bytes:
            raise TorchFileError("its tensors claim more elements than the file has bytes", "do not use this file")
        tensors[name] = _as_float32(tensor)
    return tensors


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _strip_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _metadata(content: dict[str, Any]) -> CheckpointMetadata | None:
    key = next((key for key in (_METADATA_KEY, _OLD_METADATA_KEY) if key in content), None)
    if key is None:
        return None
    try:
        return CheckpointMetadata.from_json(content[key])
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        raise TorchFileError(
            f"its metadata is malformed: {error}", "save it again with this version of edgevit"
        ) from error


def _resized_head(model: nn.Module, found: Mapping[str, Tensor]) -> list[str]:
    """Names of the final classifier's parameters, if they and nothing else differ, and only in the class count."""
    own = dict(model.named_parameters())
    if not own:
        return []
    module = list(own)[-1].rpartition(".")[0]
    head = [name for name in own if name.rpartition(".")[0] == module]
    wrong = [name for name, tensor in model.state_dict().items() if name in found and found[name].shape != tensor.shape]
    same_features = all(name in found and found[name].shape[1:] == own[name].shape[1:] for name in head)
    return head if wrong and set(wrong) <= set(head) and same_features else []


def _check_fit(own: Mapping[str, Tensor], found: Mapping[str, Tensor], verdict: str, head: list[str]) -> None:
    missing = [name for name in own if name not in found]
    unexpected = [name for name in found if name not in own]
    wrong = [
        f"{name}: have {tuple(found[name].shape)}, need {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "wrongly shaped": wrong}
    if any(kinds.values()):
        details = "; ".join(f"{len(keys)} {kind} ({_listing(keys)})" for kind, keys in kinds.items() if keys)
        only_head = head and not missing and not unexpected
        raise UsageError(
            f"{verdict}: {details}",
            fix="only the class count differs: ask for a new head with --replace-head or replace_head=True"
            if only_head
            else "build the model variant, classes and input size that this checkpoint was trained with",
        )


def _check_finite(found: Mapping[str, Tensor], source: str) -> None:
    broken = [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UsageError(
            f"{source} have values that are not finite in {len(broken)} tensors ({_listing(broken)})",
            fix="this training diverged; use an earlier checkpoint",
        )


def _listing(names: list[str]) -> str:
    """The first names on one line; ascii() keeps line breaks and terminal codes of a strange file out of it."""
    shown = [name if name.isprintable() else ascii(name) for name in map(str, names[:_LISTED])]
    return "; ".join([*shown, f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else shown)
