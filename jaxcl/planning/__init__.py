"""What an experiment needs on a cluster, from the TPU compiler, with no TPU.

plans = plan(experiment, "v5e:4x4", batch_sizes=[1024, 2048])
print(report(plans))
"""

from jaxcl.planning.chips import CHIPS, Chip, Slice, find_slice
from jaxcl.planning.collectives import Collective, find_collectives
from jaxcl.planning.flops import count_flops
from jaxcl.planning.plans import Described, Plan, largest_batch, plan
from jaxcl.planning.report import draw, report, to_json

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Described",
    "Plan",
    "Slice",
    "count_flops",
    "draw",
    "find_collectives",
    "find_slice",
    "largest_batch",
    "plan",
    "report",
    "to_json",
]
