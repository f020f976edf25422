"""What an experiment needs on a cluster, from the compiler for TPU or GPU, with none at hand.

plans = plan(experiment, "v5e:4x4", batch_sizes=[1024, 2048])
print(report(plans))
"""

from jaxcl.planning.chips import CHIPS, Chip, Slice, find_slice
from jaxcl.planning.collectives import Collective, find_collectives
from jaxcl.planning.flops import count_flops
from jaxcl.planning.plans import Described, Plan, largest_batch, plan, plan_step
from jaxcl.planning.report import draw, report, to_json
from jaxcl.planning.traffic import count_traffic

__all__ = [
    "CHIPS",
    "Chip",
    "Collective",
    "Described",
    "Plan",
    "Slice",
    "count_flops",
    "count_traffic",
    "draw",
    "find_collectives",
    "find_slice",
    "largest_batch",
    "plan",
    "plan_step",
    "report",
    "to_json",
]
