"""`python convert.py`: run the `convert` command of this clone."""

from mlx_lfm2vl.commands.start import run_program

if __name__ == "__main__":
    run_program("mlx_lfm2vl.commands.convert")
