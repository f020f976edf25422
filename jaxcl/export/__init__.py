"""A run's encoder for others: in safetensors, for other libraries, or as a program."""

from jaxcl.export.programs import stablehlo
from jaxcl.export.runs import FORMATS, export_run

__all__ = ["FORMATS", "export_run", "stablehlo"]
