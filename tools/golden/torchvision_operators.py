"""Make torchvision importable with a CPU-only torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import torch


def declare_torchvision_operators() -> torch.library.Library:
    """Let the Python part of torchvision import with a CPU-only torch.

    Its Linux wheel is built for CUDA, so the compiled operators do not load, and the import fails
    when it registers shapes for them. None of them is called here, because torch does the resizing,
    so an empty declaration of every operator is enough.

    Returns:
        The declarations, which last as long as this object.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise RuntimeError("torchvision is not installed")
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    names = {"nms"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and str(node.value).startswith("torchvision::"):
            names.add(str(node.value).removeprefix("torchvision::"))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "register_meta":
            names.update(arg.value for arg in node.args if isinstance(arg, ast.Constant))
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor input) -> Tensor")
    return library
