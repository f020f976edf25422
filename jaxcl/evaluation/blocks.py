"""Cutting matrices into tiles of one shape, so that a jitted inner block compiles once."""

from collections.abc import Iterator

import numpy as np


def normalized_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a zero row stays zero, so its cosine with anything is 0.

    Args:
      features: [N, D] float32.

    Returns:
      [N, D] float32.
    """
    # Scaling by the largest entry first: squares of float32 over- and underflow long before
    # the entries do.
    scaled = features / np.maximum(np.abs(features).max(axis=1, keepdims=True), 1e-38)
    norms = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    return scaled / np.where(norms == 0, 1, norms)


def padded_tiles(array: np.ndarray, block_size: int) -> np.ndarray:
    """Rows in tiles of equal size, the last one filled with zeros.

    Args:
      array: [N, ...].
      block_size: rows a tile, >= 1; at most N are used.

    Returns:
      [T, min(block_size, N), ...].
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, expected at least 1")
    rows = min(block_size, len(array))
    tiles = -(-len(array) // rows)
    padded = np.zeros((tiles * rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded.reshape(tiles, rows, *array.shape[1:])


def unit_tiles(features: np.ndarray, block_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Normalized rows, a tile at a time, so that no copy of all of them is made.

    Args:
      features: [N, D] float32.
      block_size: rows a tile, >= 1; at most N are used.

    Yields:
      (row that the tile starts at, [min(block_size, N), D]), the last tile filled with zeros.
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, expected at least 1")
    rows = min(block_size, len(features))
    for start in range(0, len(features), rows):
        tile = normalized_rows(features[start : start + rows])
        yield start, np.pad(tile, [(0, rows - len(tile)), (0, 0)]) if len(tile) < rows else tile
