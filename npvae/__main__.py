"""Run the command with ``python -m npvae``."""

import sys

from .cli import main

sys.exit(main())
