#!/usr/bin/env python3
"""Builds TensorRT plans of an ONNX engine package, on the box that will run them.

    python3 engines/build_plan.py ONNX_PACKAGE PLAN_PACKAGE [--half] [--trtexec /usr/src/tensorrt/bin/trtexec]

Needs NVIDIA's driver and either its Python module (`tensorrt`, or `tensorrt_rtx`) or its program `trtexec`; --half
also needs onnx and onnxruntime. Fetches nothing. The golden picture, its mask and all claims come from the ONNX package, whose
files go along as the plan package's [fallback].

Networks are strongly typed, as TensorRT 11 demands: precision is what the ONNX file says. The decoder gets two
optimisation profiles, many prompts of few points and one prompt of many, so that prompts times points stay
small and with them the memory of an execution context.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROLES = ("encoder", "decoder")
# fp16 ends at 65504. Normalisation sums squares, softmax exponentials; SAM2's LayerNorm2d is exported as the
# operations that it is made of. What follows from positions (Sin, Cos) loses its place in eleven bits.
KEPT_IN_FLOAT = [
    "LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "Pow", "Sqrt", "Div", "Erf", "Sin", "Cos",
]
# Most points of one prompt in the profile of many prompts: a click, or a box.
FEW_POINTS = 2


class Device:
    """Name and compute capability as the driver tells them: what `sam2d` compares."""

    def __init__(self, ordinal: int):
        cuda = ctypes.CDLL("libcuda.so.1")

        def call(name: str, *arguments) -> None:
            code = getattr(cuda, name)(*arguments)
            if code != 0:
                raise SystemExit(f"build_plan: {name} failed with CUresult {code}")

        handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        call("cuInit", 0)
        call("cuDeviceGet", ctypes.byref(handle), ordinal)
        call("cuDeviceGetName", name, 256, handle)
        call("cuDeviceGetAttribute", ctypes.byref(major), 75, handle)
        call("cuDeviceGetAttribute", ctypes.byref(minor), 76, handle)
        self.name = name.value.decode().strip()
        self.compute_capability = f"{major.value}.{minor.value}"


def builder_module():
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(
        "build_plan: neither tensorrt nor tensorrt_rtx can be imported: JetPack and pip have them; or name a trtexec with --trtexec"
    )


def halved(onnx_bytes: bytes) -> bytes:
    """Weights and arithmetic in fp16 where that is safe; inputs and outputs stay fp32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(
        onnx.load_from_string(onnx_bytes), keep_io_types=True, op_block_list=KEPT_IN_FLOAT
    )
    # Where an operation reads one value twice, the converter casts it twice under one name (seen: onnxruntime
    # refuses that as a duplicate definition). The casts are equal, so the first will do.
    made, nodes = set(), []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] in made:
            continue
        made.update(node.output)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    OnnxModel(model).topological_sort()
    onnx.checker.check_model(model)
    return model.SerializeToString()


def shapes_of(name: str, declared: tuple[int, ...], batch: int, points: int) -> tuple[int, ...]:
    """The contract's shape of a decoder input for so many prompts and points."""
    wanted = {
        "point_coords": (batch, points, 2),
        "point_labels": (batch, points),
        "mask_input": (batch, *declared[1:]),
        "has_mask_input": (batch,),
    }.get(name)
    if wanted is None:
        raise SystemExit(f"build_plan: input {name} is dynamic, which the contract does not know")
    return wanted


def ranges(prompts: int, points: int) -> list[tuple[tuple[int, int], ...]]:
    """Least, best and most of prompts and points, a profile each: a grid asks eight single clicks at a time."""
    return [((1, 1), (min(8, prompts), 1), (prompts, FEW_POINTS)), ((1, 1), (1, FEW_POINTS), (1, points))]


def build_by_tool(tool: Path, role: str, onnx_bytes: bytes, manifest: dict, folder: Path, arguments) -> bytes:
    """The same by NVIDIA's trtexec. It can't be asked which inputs are dynamic, so the contract says it."""
    words = subprocess.run([tool, "--help"], capture_output=True, text=True)
    command = [str(tool), "--skipInference", f"--memPoolSize=workspace:{arguments.workspace_mb}"]
    # TensorRT 10 must be told; later ones know no other networks, and may not know the word.
    command += ["--stronglyTyped"] * ("--stronglyTyped" in words.stdout + words.stderr)
    command += [f"--device={arguments.device}"]
    if arguments.timing_cache is not None:
        command += [f"--timingCacheFile={arguments.timing_cache}"]
    if role == "decoder":
        low = manifest["input_size"] // 4
        inputs = {"point_coords": (-1, -1, 2), "point_labels": (-1, -1), "mask_input": (-1, 1, low, low)}
        if not arguments.one_mask_flag:
            inputs["has_mask_input"] = (-1,)
        limits = manifest["limits"]
        for index, at in enumerate(ranges(limits["max_prompts"], limits["max_points"])):
            command += [f"--profile={index}"]
            for flag, (batch, points) in zip(("minShapes", "optShapes", "maxShapes"), at):
                shapes = {name: shapes_of(name, declared, batch, points) for name, declared in inputs.items()}
                spec = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
                command += [f"--{flag}={spec}"]
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as scratch:
        network, plan = Path(scratch) / f"{role}.onnx", Path(scratch) / f"{role}.plan"
        network.write_bytes(onnx_bytes)
        command += [f"--onnx={network}", f"--saveEngine={plan}"]
        print(" ".join(command), file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=sys.stderr)
        if done.returncode != 0 or not plan.exists():
            raise SystemExit(f"build_plan: {tool.name} built no plan (exit {done.returncode}); its words are above")
        return plan.read_bytes()


def build(trt, onnx_bytes: bytes, prompts: int, points: int, workspace_mb: int, cache: Path | None) -> bytes:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_bytes):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise SystemExit(f"build_plan: TensorRT can't read the ONNX file: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    for least, best, most in ranges(prompts, points) if dynamic else []:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            profile.set_shape(tensor.name, *(shapes_of(tensor.name, tuple(tensor.shape), *at) for at in (least, best, most)))
        config.add_optimization_profile(profile)
    timing = None
    if cache is not None and hasattr(config, "create_timing_cache"):
        timing = config.create_timing_cache(cache.read_bytes() if cache.exists() else b"")
        config.set_timing_cache(timing, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SystemExit("build_plan: TensorRT built no plan; its words are above")
    if timing is not None:
        cache.write_bytes(bytes(timing.serialize()))
    return bytes(plan)


def version_of(trt, plan: bytes) -> str:
    """As the plan's header has it; TensorRT-RTX's tells none."""
    if plan[:4] == b"ftrt":
        return ".".join(str(part) for part in plan[24:28])
    if plan[:4] == b"vtrt" and trt is not None:
        return f"rtx {trt.__version__}"
    raise SystemExit(f"build_plan: what was built is no TensorRT plan: it starts with {plan[:4]!r}")


def tables(manifest: str) -> list[tuple[str, str]]:
    """Header and text of each TOML table; the first has no header."""
    parts = re.split(r"(?m)^(\[[^\]\n]+\])[ \t]*$", manifest)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2])]


def plan_manifest(manifest: str, files: dict[str, dict[str, str]], plan: dict[str, str], precision: str | None) -> str:
    """The ONNX package's manifest with plans in the place of its files, and these as its fallback."""
    kept = [(head, body) for head, body in tables(manifest) if not re.match(r"\[(files\.|plan\]|fallback\.)", head)]
    head, body = kept[0]
    body = re.sub(r'(?m)^version = "(.*)"$', rf'version = "\1+trt{plan["tensorrt"].removeprefix("rtx ")}"', body)
    if precision is not None:
        body = re.sub(r'(?m)^precision = .*$', f'precision = "{precision}"', body)
    text = "".join(head + body for head, body in [(head, body), *kept[1:-1]])
    for name, entry in files.items():
        text += f"[{name}]\n" + "".join(f'{key} = "{value}"\n' for key, value in entry.items()) + "\n"
    text += "[plan]\n" + "".join(f'{key} = "{value}"\n' for key, value in plan.items()) + "\n"
    return text + "".join(kept[-1]) if len(kept) > 1 else text


def jetpack() -> str | None:
    """NVIDIA's own name of the Jetson's system, where this is one."""
    release = Path("/etc/nv_tegra_release")
    if not release.exists():
        return None
    found = re.search(r"R(\d+).*REVISION: ([\d.]+)", release.read_text())
    return f"L4T {found[1]}.{found[2]}" if found else None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="ONNX_PACKAGE")
    parser.add_argument("target", type=Path, metavar="PLAN_PACKAGE")
    parser.add_argument("--half", action="store_true", help="fp16 where that is safe")
    parser.add_argument("--device", type=int, default=0, help="as engine.device")
    parser.add_argument("--workspace-mb", type=int, default=2048, help="memory that the builder may try with")
    parser.add_argument("--trtexec", type=Path, metavar="FILE", help="build by this program instead of the Python module")
    parser.add_argument(
        "--one-mask-flag", action="store_true", help="with --trtexec: this export's has_mask_input is [1], not [B]"
    )
    parser.add_argument("--timing-cache", type=Path, help="kept between builds on one box: the second is much faster")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    text = (source / "engine.toml").read_text()
    manifest = tomllib.loads(text)
    limits = manifest["limits"]
    trt = None if arguments.trtexec else builder_module()
    device = Device(arguments.device)
    target.mkdir(parents=True)
    files, version = {}, ""
    for role in ROLES:
        entry = manifest["files"][role]
        if entry["format"] != "onnx":
            raise SystemExit(f"build_plan: {role} of {source} is no ONNX file")
        onnx_bytes = (source / entry["path"]).read_bytes()
        if sha256(onnx_bytes) != entry["sha256"]:
            raise SystemExit(f"build_plan: {entry['path']} is not the file that engine.toml means")
        print(f"building the {role}", file=sys.stderr, flush=True)
        network = halved(onnx_bytes) if arguments.half else onnx_bytes
        if arguments.trtexec:
            plan = build_by_tool(arguments.trtexec, role, network, manifest, target, arguments)
        else:
            plan = build(
                trt, network, limits["max_prompts"], limits["max_points"], arguments.workspace_mb, arguments.timing_cache
            )
        version = version_of(trt, plan)
        (target / f"{role}.plan").write_bytes(plan)
        (target / f"{role}.onnx").write_bytes(onnx_bytes)
        files[f"files.{role}"] = {"path": f"{role}.plan", "format": "plan", "sha256": sha256(plan)}
        files[f"fallback.{role}"] = {"path": f"{role}.onnx", "format": "onnx", "sha256": sha256(onnx_bytes)}
    built = {"tensorrt": version, "compute_capability": device.compute_capability, "device": device.name}
    if system := jetpack():
        built["jetpack"] = system
    written = plan_manifest(text, files, built, "fp16" if arguments.half else None)
    tomllib.loads(written)
    (target / "engine.toml").write_text(written)
    for name in (manifest["golden"]["image"], manifest["golden"]["mask"]):
        shutil.copy(source / name, target / name)
    for extra in [*source.glob("*.md"), *source.glob("LICEN[CS]E*"), *source.glob("NOTICE*")]:
        shutil.copy(extra, target / extra.name)
    print(f"{target}: plans for {device.name} by TensorRT {version}; now: sam2d engine verify {target}")


if __name__ == "__main__":
    main()
