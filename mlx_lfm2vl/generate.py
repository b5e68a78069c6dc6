"""`python -m mlx_lfm2vl.generate`: the command. The function is `mlx_lfm2vl.generate`."""

import sys

from .commands.generate import main

if __name__ == "__main__":
    sys.exit(main())
