"""im2col as XNNPACK nodes: a linear layer over the result is the convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.executorch.values import add_value, tensor
from edgevit.compat.executorch import graph_schema, no_value

_MAX_JOINED = 5  # values that one concatenation of XNNPACK takes


def im2col(graph: Any, convolution: Any) -> tuple[int, list[Any]]:
    """im2col of a dense convolution over a feature map (N, H, W, I): (N, Ho, Wo, kH kW I).

    Returns the value and the nodes that compute it; no nodes for a 1x1 convolution, which reads the feature map itself.
    """
    return _Im2col(graph, convolution).run()


class _Im2col:
    def __init__(self, graph: Any, convolution: Any) -> None:
        self._graph, self._conv, self._schema = graph, convolution, graph_schema()
        self._shapes = {tensor(value).id_out: tuple(tensor(value).dims) for value in graph.xvalues}
        self._nodes: list[Any] = []

    def run(self) -> tuple[int, list[Any]]:
        c = self._conv
        height, width = self._shapes[c.output_id][1:3]
        source = self._padded(height, width)
        rows, columns = ([d * i for i in range(k)] for d, k in self._extents())
        taps = [self._tap(source, row, column, (height, width)) for row in rows for column in columns]
        return self._joined(taps), self._nodes

    def _extents(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(dilation, kernel size) of rows and columns."""
        c = self._conv
        return (c.dilation_height, c.kernel_height), (c.dilation_width, c.kernel_width)

    def _padded(self, height: int, width: int) -> int:
        """The feature map padded, and filled up at the end until every phase of the stride has whole rows and columns.

        With a stride it is split into phases: (N, H / s, s, W / s, s, I).
        """
        c = self._conv
        strides = c.subsampling_height, c.subsampling_width
        shape = self._shapes[c.input1_id]
        front = (c.padding_top, c.padding_left)
        wanted = [
            s * (size + d * (k - 1) // s)
            for s, size, (d, k) in zip(strides, (height, width), self._extents(), strict=True)
        ]
        behind = [max(0, w - f - size) for w, f, size in zip(wanted, front, shape[1:3], strict=True)]
        total = [f + size + b for f, size, b in zip(front, shape[1:3], behind, strict=True)]
        behind = [b + -t % s for b, t, s in zip(behind, total, strides, strict=True)]
        source = c.input1_id
        if any((*front, *behind)):
            new = (shape[0], *(f + size + b for f, size, b in zip(front, shape[1:3], behind, strict=True)), shape[3])
            source = self._add(
                new,
                lambda out: self._schema.XNNStaticConstantPad(
                    [0, *front, 0], [0, *behind, 0], 0.0, c.input1_id, out, 0
                ),
            )
            shape = new
        if strides != (1, 1):
            source = self._reshaped(
                source, (shape[0], shape[1] // strides[0], strides[0], shape[2] // strides[1], strides[1], shape[3])
            )
        return source

    def _tap(self, source: int, row: int, column: int, size: tuple[int, int]) -> int:
        """(N, Ho, Wo, I): what one kernel position reads."""
        c = self._conv
        shape = self._shapes[source]
        result = (shape[0], *size, shape[-1])
        if shape == result:
            return source
        offsets, sizes = [0, row, column, 0], list(result)
        if len(shape) == 6:
            high, wide = c.subsampling_height, c.subsampling_width
            offsets = [0, row // high, row % high, column // wide, column % wide, 0]
            sizes = [shape[0], size[0], 1, size[1], 1, shape[-1]]
        tap = self._add(sizes, lambda out: self._schema.XNNStaticSlice(len(sizes), offsets, sizes, source, out, 0))
        return tap if tuple(sizes) == result else self._reshaped(tap, result)

    def _joined(self, parts: Sequence[int]) -> int:
        """The parts concatenated along the channels."""
        parts = list(parts)
        while len(parts) > 1:
            groups = [parts[i : i + _MAX_JOINED] for i in range(0, len(parts), _MAX_JOINED)]
            parts = []
            parts += [group[0] if len(group) == 1 else self._concatenated(group) for group in groups]
        return parts[0]

    def _concatenated(self, group: Sequence[int]) -> int:
        shape = self._shapes[group[0]]
        ids = [*group, *[no_value()] * (_MAX_JOINED - len(group))]
        concatenate = getattr(self._schema, f"XNNConcatenate{len(group)}")
        return self._add(
            (*shape[:-1], sum(self._shapes[part][-1] for part in group)),
            lambda out: concatenate(len(shape) - 1, *ids[:4], out, 0, ids[4]),
        )

    def _reshaped(self, source: int, shape: Sequence[int]) -> int:
        return self._add(shape, lambda out: self._schema.XNNStaticReshape(len(shape), list(shape), source, out, 0))

    def _add(self, shape: Sequence[int], make: Any) -> int:
        """A node whose result has a shape: `make` gets the id of that."""
        out = add_value(self._graph, shape, "fp32")
        self._shapes[out] = tuple(shape)
        self._nodes.append(self._schema.XNode(make(out), 0))
        return out
