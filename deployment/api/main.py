"""Start the prediction service: ``cd deployment/api && python main.py``."""

import sys

from rossmann.serving.server import main

if __name__ == "__main__":
    sys.exit(main())
