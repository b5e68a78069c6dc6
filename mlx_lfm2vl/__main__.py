"""`python -m mlx_lfm2vl COMMAND`."""

from .cli import run

if __name__ == "__main__":
    run()
