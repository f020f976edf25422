"""`python -m jaxcl.cli` is `jaxcl`."""

import sys

from jaxcl.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
