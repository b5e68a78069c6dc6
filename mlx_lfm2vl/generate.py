"""`python -m mlx_lfm2vl.generate`: the command. The function is `mlx_lfm2vl.generate`."""

from .commands.start import run_program

if __name__ == "__main__":
    run_program("mlx_lfm2vl.commands.generate")
