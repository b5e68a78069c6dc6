"""`python -m mlx_lfm2vl.run`: the command."""

from .commands.start import run_program

if __name__ == "__main__":
    run_program("mlx_lfm2vl.commands.run")
