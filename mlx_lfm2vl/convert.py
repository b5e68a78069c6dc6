"""`python -m mlx_lfm2vl.convert`."""

from .commands.common import leave
from .commands.convert import main

if __name__ == "__main__":
    leave(main())
