"""Memories of embeddings: a queue (MoCo, NNCLR), and a bank with a row for every example.

Both are explicit state: arrays in, arrays out, and no gradient into what is stored. Choosing from a
memory (`draw`, `nearest`, `hardest`) works alike on both.
"""

from jaxcl.memory.bank import Bank, ShardedBank, init_bank, init_sharded_bank, lookup, refresh
from jaxcl.memory.choosing import Chosen, draw, hardest, nearest
from jaxcl.memory.queue import Queue, age, enqueue, init_queue

__all__ = [
    "Bank",
    "Chosen",
    "Queue",
    "ShardedBank",
    "age",
    "draw",
    "enqueue",
    "hardest",
    "init_bank",
    "init_queue",
    "init_sharded_bank",
    "lookup",
    "nearest",
    "refresh",
]
