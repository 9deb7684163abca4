"""`python -m mountd`, the same as the command `mountd`."""

import sys

from mountd.cli import main

if __name__ == "__main__":
    sys.exit(main())
