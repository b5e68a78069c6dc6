"""`python -m mlx_lfm2vl.train`."""

from .commands.common import leave
from .commands.train import main

if __name__ == "__main__":
    leave(main())
