"""`python convert.py`: run the `convert` command of this clone."""

from mlx_lfm2vl.commands.common import leave
from mlx_lfm2vl.commands.convert import main

if __name__ == "__main__":
    leave(main())
