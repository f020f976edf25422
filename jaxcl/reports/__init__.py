"""What runs learned, as one HTML file that needs nothing else."""

from jaxcl.reports.report import write_report

__all__ = ["write_report"]
