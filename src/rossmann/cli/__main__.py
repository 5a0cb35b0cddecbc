"""Entry point of ``python -m rossmann.cli``."""

import sys

from rossmann.cli import main

if __name__ == "__main__":
    sys.exit(main())
