"""SAM2 in PyTorch to an engine package: encoder.onnx, decoder.onnx, golden picture, manifest.

    python engines/export/export_onnx.py OUT --weights FILE.pt --size tiny --name sam2.1-tiny --licence Apache-2.0
    python engines/export/export_onnx.py OUT --seed 7 --size tiny --name seeded-tiny --licence Apache-2.0

Weights are an official .pt with --size, or a folder in transformers' format; a seed draws random
ones, for tests and for trying a plan build where no weights may be. Opset 17, constants folded, no
Resize but nearest, dynamic only in prompts and rows. Before anything is called done, the two files
are run with onnxruntime on the golden picture and compared with Sam2Model.forward; a difference
above 1e-3 of the largest logit stops the export.

It writes ONNX only; TensorRT plans are built from its files on the target.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from PIL import Image
from transformers import Sam2Model

from checkpoint import load_official
from network import DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_OUTPUTS, Network, OnnxNetwork
from package import add_claims, claims_of, click, numbers, sha256, write_manifest
from picture import Prompt
from pictures import shapes_picture
from sam2_model import SIZES, HfNetwork, load, seeded
from selection import SAM2
from trace import Decoder, Encoder

OPSET = 17
TOLERANCE = 1e-3
"""Largest logit difference to PyTorch, relative to the largest logit."""


def export(model: Sam2Model, masks: int, folder: Path) -> None:
    """Writes encoder.onnx and decoder.onnx of `model` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    size, channels = int(model.prompt_encoder.input_image_size), model.hidden_dim
    grid = size // 4
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, size, size, generator=draw)
    # B = 2 and N = 3: a traced 1 could be taken for a constant.
    example = (
        torch.randn(1, channels, grid // 4, grid // 4, generator=draw),
        torch.randn(1, channels // 8, grid, grid, generator=draw),
        torch.randn(1, channels // 4, grid // 2, grid // 2, generator=draw),
        torch.rand(2, 3, 2, generator=draw) * size,
        torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 1.0]]),
        torch.randn(2, 1, grid, grid, generator=draw),
        torch.tensor([0.0, 1.0]),
    )
    prompts = {name: {0: "num_labels"} for name in ("mask_input", "has_mask_input", *DECODER_OUTPUTS)}
    rows = {name: {0: "num_labels", 1: "num_points"} for name in ("point_coords", "point_labels")}
    _trace(Encoder(model), (image,), folder / "encoder.onnx", ["image"], ENCODER_OUTPUTS, {})
    _trace(Decoder(model, masks), example, folder / "decoder.onnx", DECODER_INPUTS, DECODER_OUTPUTS, prompts | rows)


def _trace(graph, example, path: Path, inputs, outputs, dynamic) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks about Python integers are the intention
        torch.onnx.export(
            graph.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=dynamic,
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    simple, same = onnxsim.simplify(onnx.load(path), perform_optimization=False)
    if not same:
        raise SystemExit(f"{path.name}: simplified graph gives other numbers than the traced one")
    _tidy(simple)
    refuse_unportable(simple, path.name)
    onnx.checker.check_model(simple)
    onnx.save(simple, path)


def _tidy(model: onnx.ModelProto) -> None:
    """Constant nodes become initializers, unused initializers and shape notes go."""
    graph, nodes = model.graph, []
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(next(a.t for a in node.attribute if a.name == "value"))
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            node.ClearField("doc_string")
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]


def refuse_unportable(model: onnx.ModelProto, name: str) -> None:
    """Stops at what the runtimes of the daemon read differently."""
    for node in model.graph.node:
        modes = [a.s.decode() for a in node.attribute if a.name == "mode"] if node.op_type == "Resize" else []
        if "cubic" in modes:
            raise SystemExit(f"{name}: {node.name} is a Resize(cubic); fold the position embedding before the export")
        if node.op_type in ("Shape", "If", "Loop", "NonZero"):
            raise SystemExit(f"{name}: {node.name} is a {node.op_type}: the graph was not traced clean")


def compare(reference: Network, exported: Network, pixels: np.ndarray, prompts: list[Prompt]) -> float:
    """Largest logit difference over all prompts, relative to the largest logit of each."""
    size = (pixels.shape[1], pixels.shape[0])
    here, there = reference.encode(pixels), exported.encode(pixels)
    worst = 0.0
    for prompt in prompts:
        a, b = reference.decode(here, prompt, size, SAM2), exported.decode(there, prompt, size, SAM2)
        worst = max(worst, float(np.abs(a.logits - b.logits).max() / np.abs(a.logits).max()))
    return worst


def origin(weights: Path | None, seed: int | None, said: str) -> str:
    """What the manifest says of the weights: what was said, and the sum of the file read."""
    if weights is None:
        return said or f"none: random, seed {seed}"
    file = weights if weights.is_file() else weights / "model.safetensors"
    return f"{said or file.name}, sha256 {sha256(file)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="official .pt together with --size, or a transformers folder")
    parser.add_argument("--size", choices=SIZES, help="shape of a seeded model or of an official .pt")
    parser.add_argument("--seed", type=int, help="random weights instead")
    parser.add_argument("--masks", type=int, choices=(1, 3, 4), default=4)
    parser.add_argument("--golden", type=Path, help="golden picture, 8-bit PNG; without it, drawn shapes")
    parser.add_argument("--point", type=click, action="append", default=[], help="golden click X,Y[,LABEL]")
    parser.add_argument("--box", type=numbers, help="golden box X,Y,WIDTH,HEIGHT")
    add_claims(parser)
    args = parser.parse_args()
    if (args.weights is None) == (args.seed is None):
        parser.error("either --weights or --seed")
    if args.size is None and (args.seed is not None or args.weights.is_file()):
        parser.error("--size says which model a seed or an official .pt is")

    if args.seed is not None:
        model = seeded(SIZES[args.size], args.seed)
    else:
        model = load_official(args.weights, SIZES[args.size]) if args.weights.is_file() else load(args.weights)
    export(model, args.masks, args.folder)
    pixels = np.asarray(Image.open(args.golden)) if args.golden else shapes_picture(256, 256)
    Image.fromarray(pixels).save(args.folder / "golden.png", optimize=True)
    golden = Prompt("golden", tuple(args.point), args.box)
    if not args.point and args.box is None:
        golden = Prompt("golden", ((84.0, 120.0, 1),))
    torch_network = HfNetwork(model, args.masks)
    difference = compare(torch_network, OnnxNetwork(args.folder), pixels, [golden])
    if difference > TOLERANCE:
        raise SystemExit(f"ONNX differs from PyTorch by {difference:.2e} of the largest logit; {TOLERANCE} is allowed")
    claims = claims_of(args)
    claims = replace(claims, checkpoint=origin(args.weights, args.seed, claims.checkpoint))
    write_manifest(args.folder, claims, golden, network=torch_network)
    print(f"{args.folder}: difference to PyTorch {difference:.2e} of the largest logit")


if __name__ == "__main__":
    main()
