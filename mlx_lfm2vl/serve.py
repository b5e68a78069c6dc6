"""`python -m mlx_lfm2vl.serve`: the command."""

from .commands.start import run_program

if __name__ == "__main__":
    run_program("mlx_lfm2vl.commands.serve")
