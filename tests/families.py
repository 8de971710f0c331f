"""One shrunken network of every family: all its parts, few channels and blocks, 5 classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from edgevit.models import cvt, dwnet, local_vit, mobile_former, pervit, segnetr, van, vt_fpn, vt_resnet
from edgevit.models.resnet import BasicBlock
from edgevit.spec import ModelSpec, Task
from tests.tiny import classifier_spec, segmenter_spec

CLASSES = 5


def _dwnet(depthwise: Callable[[int], nn.Module], *, depths: tuple[int, ...]) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        return dwnet.Skeleton(
            CLASSES,
            embed=32,
            depths=depths,
            drop_path=0.1,
            make_block=lambda _layer, _index, channels, rate: dwnet.Block(channels, depthwise(channels), rate),
        )

    return make


_ROWS = (
    mobile_former.Row("lite", 2, 8, stride=1),
    mobile_former.Row("down", 2, 12),
    mobile_former.Row("block", 2, 12),
)
_MOBILE_FORMER = mobile_former.Config(stem=8, tokens=2, token_dim=16, head_width=24, dropout=0.0, rows=_ROWS)
_CVT = cvt.Config(dims=(8, 16, 24), heads=(1, 2, 3), depths=(1, 1, 1))
_PERVIT = pervit.Config(heads=2, dims=(16, 16, 24, 24), stem=(8, 8, 16, 16), drop_path=0.1, depths=(1, 1, 1, 1))
_BUILDERS = {
    "van": lambda size: van.VAN(
        CLASSES, dims=(8, 8, 16, 16), mlp_ratios=(2, 2, 2, 2), depths=(1, 1, 1, 1), drop_path=0.1
    ),
    "mobile_former": lambda size: mobile_former.MobileFormer(CLASSES, _MOBILE_FORMER),
    "cvt": lambda size: cvt.CvT(CLASSES, _CVT),
    "pervit": lambda size: pervit.PerViT(CLASSES, _PERVIT, input_size=size),
    "dwnet": _dwnet(dwnet.plain_depthwise, depths=(1, 1)),
    "dynamic_dwnet": _dwnet(dwnet.DynamicDepthwise, depths=(1,)),
    "i_dynamic_dwnet": _dwnet(dwnet.InhomogeneousDepthwise, depths=(1,)),
    "local_vit": lambda size: local_vit._build(CLASSES, size, embed=32, depths=(2, 1), drop_path=0.1),
    "vt_resnet": lambda size: vt_resnet.VTResNet(
        CLASSES, block=BasicBlock, depths=(1, 1, 1), num_modules=2, project_last=False, token_channels=64
    ),
    "vt_fpn": lambda size: vt_fpn.VTFPN(CLASSES, depths=(1, 1, 1, 1)),
    "segnetr": lambda size: segnetr.SegNetr(CLASSES, width=16),
}
FAMILIES = tuple(_BUILDERS)
SEGMENTERS = ("vt_fpn", "segnetr")


def build(family: str, size: int = 32) -> nn.Module:
    """The network of a family for images of `size` pixels a side, in its training form."""
    return _BUILDERS[family](size)


def spec_of(family: str, size: int = 32) -> ModelSpec:
    """The spec of what `build` gives."""
    spec = segmenter_spec(CLASSES) if family in SEGMENTERS else classifier_spec(CLASSES)
    assert spec.task is (Task.SEGMENT if family in SEGMENTERS else Task.CLASSIFY)
    spec = dataclasses.replace(spec, name=family, build=lambda _classes, side: build(family, side))
    return spec.for_task(input_size=size)
