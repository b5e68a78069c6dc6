"""`python -m mlx_lfm2vl.fuse`."""

from .commands.common import leave
from .commands.fuse import main

if __name__ == "__main__":
    leave(main())
