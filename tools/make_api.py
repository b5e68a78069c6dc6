"""Make the API page of the public names from their docstrings.

    python -W error tools/make_api.py build/api

Needs pdoc, which the `dev` extra installs. With `-W error`, a name that does not resolve or a
docstring that cannot be rendered ends it with exit code 1.
"""

import dataclasses
import inspect
import re
import sys
from pathlib import Path

import pdoc

import mlx_lfm2vl

FIELD = re.compile(r"^    (\w+):.*?  # (.+)$", re.MULTILINE)


def make_api(folder: Path) -> None:
    """Write `index.html` and `mlx_lfm2vl.html` into a folder."""
    for name in mlx_lfm2vl.__all__:
        value = getattr(mlx_lfm2vl, name)
        # pdoc reads what a module holds, and the package imports its names on first use.
        setattr(mlx_lfm2vl, name, value)
        if dataclasses.is_dataclass(value):
            value.__doc__ = f"{inspect.getdoc(value)}\n\n{fields_section(value)}"
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("mlx_lfm2vl", "!mlx_lfm2vl.generate", output_directory=folder)


def fields_section(cls: type) -> str:
    """The fields that have a comment, as a section of a docstring."""
    fields = [f"    {name}: {comment}" for name, comment in FIELD.findall(inspect.getsource(cls))]
    return "\n".join(["Attributes:", *fields])


if __name__ == "__main__":
    make_api(Path(sys.argv[1]))
