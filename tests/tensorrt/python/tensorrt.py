"""A stand-in for NVIDIA's builder: it writes stand-in plans (see ../standin/libnvinfer.cpp) for the seeded
engine, with the profiles it was given. STANDIN_MODEL is the socket that the plans name. It proves the script
that calls it, and nothing about building."""

from __future__ import annotations

import os
from types import SimpleNamespace

__version__ = "10.16.0.72"
MemoryPoolType = SimpleNamespace(WORKSPACE=0)
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

FEATURES = [("high_res_feats_0", (1, 4, 32, 32)), ("high_res_feats_1", (1, 8, 16, 16)), ("image_embed", (1, 32, 8, 8))]
PROMPTS = [
    ("point_coords", (-1, -1, 2)),
    ("point_labels", (-1, -1)),
    ("mask_input", (-1, 1, 32, 32)),
    ("has_mask_input", (-1,)),
]
ANSWERS = [("masks", (-1, 4, 32, 32)), ("iou_predictions", (-1, 4)), ("object_score_logits", (-1, 1))]


class Logger:
    WARNING = 2

    def __init__(self, level):
        assert level == self.WARNING


class Network:
    def __init__(self):
        self.inputs, self.outputs = [], []

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        name, shape = self.inputs[index]
        return SimpleNamespace(name=name, shape=shape)


class OnnxParser:
    num_errors = 0

    def __init__(self, network, _logger):
        self.network = network

    def parse(self, model: bytes) -> bool:
        decoder = b"point_coords" in model
        self.network.inputs = FEATURES + PROMPTS if decoder else [("image", (1, 3, 128, 128))]
        self.network.outputs = ANSWERS if decoder else FEATURES
        return True


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, best, most):
        assert all(a <= b <= c for a, b, c in zip(least, best, most)), (name, least, best, most)
        self.shapes[name] = (least, most)


class Config:
    def __init__(self):
        self.profiles = []

    def set_memory_pool_limit(self, pool, size):
        assert pool == MemoryPoolType.WORKSPACE and size > 0

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)

    def create_timing_cache(self, _known):
        return SimpleNamespace(serialize=lambda: b"timings")

    def set_timing_cache(self, _cache, _ignore_mismatch):
        pass


class Builder:
    def __init__(self, _logger):
        pass

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        words = [f"model {os.environ['STANDIN_MODEL']}", "memory 1000000"]
        join = lambda shape: " ".join(map(str, shape))  # noqa: E731
        words += [f"in {name} 0 {join(shape)}" for name, shape in network.inputs]
        words += [f"out {name} 0 {join(shape)}" for name, shape in network.outputs]
        for index, profile in enumerate(config.profiles):
            words += [f"profile {index} {name} {join(a)} ; {join(b)}" for name, (a, b) in profile.shapes.items()]
        header = b"ftrt" + bytes(20) + bytes([10, 16, 0, 72])
        return memoryview(header + ("\n".join(words) + "\n").encode())
