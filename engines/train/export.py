"""Checkpoint → `encoder.onnx` and `decoder.onnx`, SAM2.1's two-file contract.

    python export.py RUN/last.pt OUT [--weights-file model.pt]
    python ../export/package.py OUT --version … --point …      # then the manifest

Weights of more than 64 values are stored as fp16 and cast back where they are used: half the size,
fp32 arithmetic. Batch normalisation is folded, tables are constants, `Resize` is nearest only (rten
maps cubic to linear silently), only the numbers of prompts and points are dynamic.

Refuses to write a package whose files differ from PyTorch by more than `TOLERANCE` of the largest
value, or on which a padded prompt row is not neutral.
"""
from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from model import PIXEL_MEAN, PIXEL_STD, SamNano, load_checkpoint, save_weights

FP32_UP_TO = 64
TOLERANCE = 2e-3
ENCODER_OUTPUTS = ["high_res_feats_0", "high_res_feats_1", "image_embed"]
DECODER_INPUTS = ["image_embed", "high_res_feats_0", "high_res_feats_1", "point_coords", "point_labels", "mask_input", "has_mask_input"]
DECODER_OUTPUTS = ["masks", "iou_predictions", "object_score_logits"]


class _Encoder(nn.Module):
    """The encoder alone, under the node names of version 1 (`/e/…`)."""

    def __init__(self, net: SamNano) -> None:
        super().__init__()
        self.e = net.enc

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.e(image)


class _DecoderInOrder(nn.Module):
    """The decoder with the contract's argument order, under the weight names of version 1 (`d.…`)."""

    def __init__(self, net: SamNano) -> None:
        super().__init__()
        self.d = net.dec

    def forward(self, *a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.d(*a)


def round_weights(net: SamNano) -> SamNano:
    """What the package stores: every float array of more than `FP32_UP_TO` values rounded to fp16."""
    with torch.no_grad():
        for t in [*net.parameters(), *net.buffers()]:
            if t.is_floating_point() and t.numel() > FP32_UP_TO:
                t.copy_(t.half().float())
    return net


def example(net: SamNano) -> tuple[Tensor, ...]:
    """Decoder inputs of a fixed seed: a click with a padded row beside a box with a click and a mask."""
    c, s = net.config.hidden, net.config.size
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        fine, middle, coarse = net.enc(torch.randn(1, 3, s, s, generator=g))
    points = torch.rand(2, 3, 2, generator=g) * s
    labels = torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 1.0]])
    assert coarse.shape[1] == c
    return coarse, fine, middle, points, labels, torch.randn(2, 1, s // 4, s // 4, generator=g) * 4, torch.tensor([0.0, 1.0])


def _tidy(model: onnx.ModelProto) -> None:
    """Constant nodes become initialisers, unused ones go, no shapes of intermediates are kept."""
    g = model.graph
    kept = []
    for node in g.node:
        if node.op_type == "Constant":
            t = onnx.TensorProto()
            t.CopyFrom(next(a.t for a in node.attribute if a.name == "value"))
            t.name = node.output[0]
            g.initializer.append(t)
        else:
            kept.append(node)
    used = {i for n in kept for i in n.input} | {o.name for o in g.output}
    initialisers = [t for t in g.initializer if t.name in used]
    del g.node[:], g.initializer[:], g.value_info[:]
    g.node.extend(kept)
    g.initializer.extend(initialisers)


def _halve(model: onnx.ModelProto) -> None:
    """Large float initialisers as fp16 with a Cast before their use."""
    g = model.graph
    stored, casts = [], []
    for t in g.initializer:
        a = numpy_helper.to_array(t)
        if a.dtype == np.float32 and a.size > FP32_UP_TO:
            stored.append(numpy_helper.from_array(a.astype(np.float16), t.name + "_h"))
            casts.append(helper.make_node("Cast", [t.name + "_h"], [t.name], to=TensorProto.FLOAT, name="cast_" + t.name))
        else:
            stored.append(t)
    nodes = list(g.node)
    del g.initializer[:], g.node[:]
    g.initializer.extend(stored)
    g.node.extend([*casts, *nodes])


def _finish(path: Path, size: int) -> None:
    model, ok = onnxsim.simplify(onnx.load(path), perform_optimization=False)
    if not ok:
        raise SystemExit(f"{path}: the simplified graph does not agree with the exported one")
    del model.metadata_props[:]
    notes = {"model": "sam2-nano, small SAM2-style promptable segmenter", "use": "demonstration model, not for diagnostic use", "image_size": size,
             "pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD, "resize": "stretch, antialiased bilinear", "mask_threshold": 0.0}  # fmt: skip
    for k, v in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = k, str(v)
    _tidy(model)
    _halve(model)
    onnx.checker.check_model(model)
    modes = {a.s for n in model.graph.node if n.op_type == "Resize" for a in n.attribute if a.name == "mode"}
    if modes - {b"nearest"} or any(n.op_type == "Shape" for n in model.graph.node):
        raise SystemExit(f"{path}: Resize modes {modes}, or a Shape node: not what the engines were checked with")
    onnx.save(model, path)


def export(net: SamNano, out: Path) -> None:
    """Both files, from a network whose weights are rounded and fused."""
    size = net.config.size
    common = dict(opset_version=17, do_constant_folding=True, dynamo=False)
    rows = {k: {0: "num_labels", 1: "num_points"} for k in ("point_coords", "point_labels")}
    dynamic = rows | {k: {0: "num_labels"} for k in ("mask_input", "has_mask_input", *DECODER_OUTPUTS)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(_Encoder(net).eval(), (torch.randn(1, 3, size, size),), out / "encoder.onnx", input_names=["image"], output_names=ENCODER_OUTPUTS, **common)
        torch.onnx.export(_DecoderInOrder(net).eval(), example(net), out / "decoder.onnx", input_names=DECODER_INPUTS, output_names=DECODER_OUTPUTS, dynamic_axes=dynamic, **common)
    for name in ("encoder", "decoder"):
        _finish(out / f"{name}.onnx", size)


def check(net: SamNano, out: Path) -> None:
    """Files against PyTorch, and the neutrality of padded rows."""
    encoder, decoder = (ort.InferenceSession(out / f"{n}.onnx", providers=["CPUExecutionProvider"]) for n in ("encoder", "decoder"))
    inputs = example(net)
    g = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, net.config.size, net.config.size, generator=g)
    with torch.no_grad():
        pairs = [(ENCODER_OUTPUTS, encoder.run(ENCODER_OUTPUTS, {"image": image.numpy()}), net.enc(image))]
        feed = {k: v.numpy() for k, v in zip(DECODER_INPUTS, inputs)}
        pairs.append((DECODER_OUTPUTS, decoder.run(DECODER_OUTPUTS, feed), net.dec(*inputs)))
    for names, got, expected in pairs:
        for name, a, b in zip(names, got, expected):
            difference = float(np.abs(a - b.numpy()).max() / np.abs(b.numpy()).max())
            print(f"{name}: {difference:.1e} of the largest value")
            if difference > TOLERANCE:
                raise SystemExit(f"{name}: the file differs from PyTorch")
    one = dict(feed, point_coords=feed["point_coords"][:1, :1], point_labels=np.ones((1, 1), np.float32), mask_input=feed["mask_input"][:1], has_mask_input=feed["has_mask_input"][:1])
    padded = dict(one, point_coords=np.repeat(one["point_coords"], 4, 1), point_labels=np.array([[1, -1, -1, -1]], np.float32))
    change = np.abs(decoder.run(["masks"], one)[0] - decoder.run(["masks"], padded)[0]).max()
    print(f"padded rows change logits by {change:.1e}")
    if change > 1e-3:
        raise SystemExit("padded prompt rows are not neutral")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("checkpoint", type=Path)
    ap.add_argument("out", type=Path)
    ap.add_argument("--weights-file", type=Path, help="keep the averaged weights here in fp16, and export those")
    a = ap.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    net = load_checkpoint(a.checkpoint)
    if a.weights_file:
        save_weights(net, a.weights_file)
        net = load_checkpoint(a.weights_file)  # so that the package is exactly of what is kept
    net = round_weights(net.eval().fuse().eval())
    export(net, a.out)
    check(net, a.out)
    for name in ("encoder", "decoder"):
        print(f"{name}.onnx {(a.out / f'{name}.onnx').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
