"""Blocks of consecutive rows, one after another."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Carry = TypeVar("Carry")


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of arrays of rows."""

    start: jax.Array
    new: jax.Array
    """[rows] bool, rows that no block before has had: the last one may overlap."""
    may_overlap: bool
    """False: all rows of all blocks are new."""

    def of(self, array: jax.Array) -> jax.Array:
        """The block's rows of an array [N, ...]."""
        return jax.lax.dynamic_slice_in_dim(array, self.start, len(self.new))

    def put(self, array: jax.Array, rows: jax.Array) -> jax.Array:
        """The array with other rows in the block's place."""
        return jax.lax.dynamic_update_slice_in_dim(array, rows, self.start, axis=0)

    def add(self, array: jax.Array, rows: jax.Array) -> jax.Array:
        """The array with rows added to the block's."""
        return self.put(array, self.of(array) + rows)


def block_at(number: jax.Array, rows: int, count: int, offset: int = 0) -> Block:
    """One of the blocks of `rows` rows that cut `count` rows, the first of which is at `offset`."""
    start = jnp.minimum(number * rows, count - rows)
    new = start + jnp.arange(rows) >= number * rows
    return Block(start + offset, new, may_overlap=count % rows != 0)


def over_blocks(
    rows: int,
    count: int,
    block: Callable[[Block, Carry], Carry],
    carry: Carry,
    skip: jax.Array | bool = False,
) -> Carry:
    """`block` over `count` rows in blocks; none at all where `skip` is true."""
    rows = min(rows, count)
    blocks = -(-count // rows)
    return jax.lax.fori_loop(
        0,
        blocks if skip is False else jnp.where(skip, 0, blocks),
        lambda number, carry: block(block_at(number, rows, count), carry),
        carry,
    )
