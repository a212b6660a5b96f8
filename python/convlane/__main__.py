"""``python -m convlane``, the same as the command ``convlane``."""

import sys

from convlane.cli import main

if __name__ == "__main__":
    sys.exit(main())
