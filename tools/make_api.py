"""Make the API page of the public names from their docstrings.

    python -W error tools/make_api.py build/api

Needs pdoc, which the `dev` extra installs. With `-W error` a name that does not resolve, or a
docstring that cannot be rendered, ends it with exit code 1.
"""

import sys
from pathlib import Path

import pdoc

import mlx_lfm2vl


def make_api(folder: Path) -> None:
    """Write `index.html` and `mlx_lfm2vl.html` into a folder."""
    for name in mlx_lfm2vl.__all__:
        # pdoc reads what a module holds, and the package imports its names on first use.
        setattr(mlx_lfm2vl, name, getattr(mlx_lfm2vl, name))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("mlx_lfm2vl", "!mlx_lfm2vl.generate", output_directory=folder)


if __name__ == "__main__":
    make_api(Path(sys.argv[1]))
