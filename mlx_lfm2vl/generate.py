"""`python -m mlx_lfm2vl.generate`: the command. The function is `mlx_lfm2vl.generate`."""

from .commands.common import leave
from .commands.generate import main

if __name__ == "__main__":
    leave(main())
