"""The command line: each verb calls one function of the library."""

from jaxcl.cli.configs import load_config
from jaxcl.cli.program import main

__all__ = ["load_config", "main"]
