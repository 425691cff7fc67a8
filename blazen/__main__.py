"""``python -m blazen``: the same as the command ``blazen``."""

from __future__ import annotations

import sys

from blazen.cli import main

if __name__ == "__main__":
    sys.exit(main())
