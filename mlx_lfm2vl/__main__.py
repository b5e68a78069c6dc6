"""`python -m mlx_lfm2vl COMMAND`, and the program `mlx_lfm2vl`.

It imports nothing before Ctrl-C is handled.
"""

from .commands.start import run_program


def run() -> None:
    """Run the `mlx_lfm2vl` program and exit."""
    run_program("mlx_lfm2vl.cli")


if __name__ == "__main__":
    run()
