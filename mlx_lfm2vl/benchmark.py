"""`python -m mlx_lfm2vl.benchmark`."""

from .commands.benchmark import main
from .commands.common import leave

if __name__ == "__main__":
    leave(main())
