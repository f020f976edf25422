"""Weights and images that a name and a shape determine, alike in every framework."""

import zlib

import numpy as np


def formula_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values for the tensor of that name, in PyTorch's layout, of sane magnitudes."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = generator.standard_normal(shape)
    if len(shape) > 1:
        values *= np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = 1.0 + 0.5 * np.tanh(values)
    elif name.endswith("weight"):
        values = 1.0 + 0.1 * values
    else:
        values = 0.1 * values
    return values.astype(np.float32)


def formula_images() -> np.ndarray:
    """[4, 65, 64, 3] float32: an odd side tells paddings apart."""
    generator = np.random.Generator(np.random.PCG64(0))
    return generator.standard_normal((4, 65, 64, 3)).astype(np.float32)
