"""Parameters of ours by the names that others gave them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Our names of what a module holds, and PyTorch's; a kernel is transposed there."""


def from_torch(
    arrays: Mapping[str, np.ndarray],
    shapes: Any,
    rename: Callable[[str], str],
    *,
    ignored: Callable[[str], bool] = lambda name: False,
    what: str = "the weights",
) -> Any:
    """Arrays of a PyTorch model as a tree of parameters.

    Args:
      arrays: by their names there.
      shapes: the tree that is wanted, of anything with a `shape`.
      rename: from a path of ours, such as `layer_0/query/kernel`, to a name there.
      ignored: which names there may be left over.
      what: what errors call the arrays.

    Returns:
      The tree, of float32 arrays.

    Raises:
      ValueError: naming all arrays that are missing, left over or of another shape.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    found, problems, used = [], [], set()
    for path, leaf in leaves:
        ours = jax.tree_util.keystr(path, simple=True, separator="/")
        theirs = rename(ours)
        used.add(theirs)
        if theirs not in arrays:
            problems.append(f"missing: {theirs} {list(_torch_shape(ours, leaf.shape))}")
            continue
        array = np.asarray(arrays[theirs], np.float32)
        if array.shape != _torch_shape(ours, leaf.shape):
            problems.append(
                f"misshapen: {theirs} is {list(array.shape)}, expected "
                f"{list(_torch_shape(ours, leaf.shape))}"
            )
            continue
        found.append(_from_torch_layout(ours, array))
    problems += [
        f"left over: {name} {list(np.shape(arrays[name]))}"
        for name in sorted(set(arrays) - used)
        if not ignored(name)
    ]
    if problems:
        raise ValueError(f"{what} do not fit the model:\n  " + "\n  ".join(problems))
    return jax.tree.unflatten(structure, found)


def to_torch(params: Any, rename: Callable[[str], str]) -> dict[str, np.ndarray]:
    """The reverse: a tree of parameters as arrays by their names there."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {
        rename(path): np.ascontiguousarray(_to_torch_layout(path, np.asarray(leaf, np.float32)))
        for path, (_, leaf) in zip(paths, leaves, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class Names:
    """What a model of layers calls its modules there."""

    modules: Mapping[str, str]
    """Those outside of layers, by our names; what is a table here, not a module, too."""
    layer: str
    """Where layer `{}` stands."""
    of_layer: Mapping[str, str]
    """The modules of a layer, by our names."""

    def __call__(self, path: str) -> str:
        """From a path of ours to the name there.

        Example:
          >>> Names({}, "encoder.layer.{}", {"query": "self.query"})("layer_3/query/kernel")
          'encoder.layer.3.self.query.weight'
        """
        first, *rest = path.split("/")
        if first.startswith("layer_"):
            module, leaf = rest
            layer = self.layer.format(first.removeprefix("layer_"))
            return f"{layer}.{self.of_layer[module]}.{LEAVES[leaf]}"
        return f"{self.modules[first]}.{LEAVES[rest[0]] if rest else 'weight'}"


def _to_torch_layout(path: str, array: np.ndarray) -> np.ndarray:
    """Kernels are [..., in, out] here and [out, in, ...] there."""
    if not path.endswith("/kernel"):
        return array
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def _from_torch_layout(path: str, array: np.ndarray) -> np.ndarray:
    if not path.endswith("/kernel"):
        return array
    return array.transpose(*range(2, array.ndim), 1, 0)


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not path.endswith("/kernel"):
        return shape
    return (shape[-1], shape[-2], *shape[:-2])
