"""`python -m mlx_lfm2vl.fuse`."""

import sys

from .commands.fuse import main

if __name__ == "__main__":
    sys.exit(main())
