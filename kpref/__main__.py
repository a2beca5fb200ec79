"""``python -m kpref``: the command line."""

import sys

from kpref.cli import main

if __name__ == "__main__":
    sys.exit(main())
