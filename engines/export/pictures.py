"""Drawn pictures for golden and reference images: integer arithmetic only, the same on any machine."""

from __future__ import annotations

import numpy as np


def shapes_picture(width: int, height: int, *, colour: bool = False) -> np.ndarray:
    """Two bright ellipses and a bar in a larger ellipse on a dark ground, with a fixed dither.

    uint8, [height, width], or [height, width, 3] with `colour`. Laid out on a 64 x 64 plan that is
    stretched to the size, so (21/64, 30/64) of any size lies in the left ellipse.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    picture = np.full((height, width), 20, np.int64)
    picture[_ellipse(x, y, width, height, 32, 32, 27, 21)] = 90
    picture[_ellipse(x, y, width, height, 21, 30, 8, 10)] = 140
    picture[_ellipse(x, y, width, height, 44, 34, 6, 7)] = 165
    picture[(x * 64 >= 29 * width) & (x * 64 < 36 * width) & (y * 64 >= 40 * height) & (y * 64 < 46 * height)] = 240
    picture += (x * 7 + y * 13) % 5
    if colour:
        tints = (picture, (picture * 3 + x * 255 // width) // 4, (picture * 3 + y * 255 // height) // 4)
        picture = np.stack(tints, axis=2)
    return picture.astype(np.uint8)


def _ellipse(x: np.ndarray, y: np.ndarray, width: int, height: int, cx: int, cy: int, rx: int, ry: int) -> np.ndarray:
    """Ellipse of the 64 x 64 plan; all products stay below 2^53."""
    dx, dy = (64 * x - cx * width) * ry * height, (64 * y - cy * height) * rx * width
    return dx * dx + dy * dy <= (rx * width * ry * height) ** 2


def noise_picture(width: int, height: int, *, colour: bool = False) -> np.ndarray:
    """Every pixel unlike its neighbours: shows whether resampling is antialiased and where its kernel sits.

    uint8, [height, width], or [height, width, 3] with `colour`.
    """
    channels = 3 if colour else 1
    y, x, c = np.mgrid[0:height, 0:width, 0:channels].astype(np.uint64)
    mixed = (x * np.uint64(73856093)) ^ (y * np.uint64(19349663)) ^ (c * np.uint64(83492791))
    mixed = (mixed * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    picture = (mixed >> np.uint64(24)).astype(np.uint8)
    return picture if colour else picture[..., 0]
