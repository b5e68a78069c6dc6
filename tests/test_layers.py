"""The architecture as a rule: imports go downwards only, and starting up stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_lfm2vl

PACKAGE = Path(mlx_lfm2vl.__file__).parent
LAYERS = [
    {"errors"},
    {"config", "kernels", "mac"},
    {"attention", "chip"},
    {
        "arrays",
        "cache",
        "geometry",
        "network",
        "projector",
        "quantization",
        "resample",
        "sampling",
        "template",
        "tokenizer",
        "vision",
        "weights",
    },
    {"hub", "image_file", "image_processor", "language", "pictures", "shards"},
    {"model", "processor"},
    {"answer", "decoding"},
    {"lookup"},
    {"adapters", "generation", "loading", "saving", "training"},
    {"batching", "calibration", "conversion", "measuring", "model_card", "quality"},
    {"commands"},
    {"benchmark", "cli", "convert", "fuse", "generate", "train"},
]
MODEL_SIDE = {
    "attention",
    "cache",
    "decoding",
    "kernels",
    "language",
    "lookup",
    "model",
    "projector",
    "vision",
    "sampling",
}
NEVER = {"torch", "transformers"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Our own top-level modules, and foreign ones, that a file imports anywhere."""
    depth = len(path.relative_to(PACKAGE).parts)
    ours, foreign = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            ours |= {name.split(".")[0] for name in names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            foreign.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Import):
            foreign |= {alias.name.split(".")[0] for alias in node.names}
    return ours - {"__version__", "__init__"}, foreign


def files(unit: str) -> list[Path]:
    return [p for p in (PACKAGE / f"{unit}.py", *(PACKAGE / unit).rglob("*.py")) if p.exists()]


def test_modules_import_only_lower_layers():
    lower: set[str] = set()
    for layer in LAYERS:
        for unit in layer:
            for path in files(unit):
                assert imports(path)[0] - {unit} <= lower, path
        lower |= layer
    modules = {path.stem for path in PACKAGE.glob("[!_]*.py")}
    assert lower == modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_no_module_imports_torch_or_transformers():
    for path in PACKAGE.rglob("*.py"):
        assert not imports(path)[1] & NEVER, path


def test_pictures_and_text_stop_before_the_model():
    for unit in MODEL_SIDE:
        for path in files(unit):
            assert not imports(path)[1] & {"PIL", "tokenizers", "jinja2", "huggingface_hub"}, path


HEAVY = ["torch", "transformers", "mlx_lm", "huggingface_hub"]


def modules_after(code: str) -> set[str]:
    """Which of the modules worth watching are loaded after running code in a fresh process."""
    watched = [*HEAVY, "mlx", "numpy", "PIL", "tokenizers", "jinja2"]
    report = f"\nimport sys; print('LOADED', *[m for m in {watched} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.strip().splitlines()[-1].split()[1:])


def test_help_loads_nothing_heavy():
    code = "from mlx_lfm2vl.commands.generate import main; assert main(['--help']) == 0"
    assert modules_after(code) == set()


@pytest.mark.parametrize("extra", [[], ["--plan"]])
def test_a_local_model_needs_no_hub(extra):
    folder = Path(__file__).parent / "golden/new_names/checkpoint"
    picture = Path(__file__).parent / "pictures.py"
    arguments = ["--model", str(folder), "--prompt", "Hi", "--max-tokens", "1", *extra]
    code = (
        f"import sys; sys.path.insert(0, {str(picture.parent)!r})\n"
        "import io\nfrom unittest import mock\nfrom pictures import make_picture\n"
        "data = io.BytesIO(); make_picture(9, 9, 1).save(data, 'png')\n"
        "sys.stdin = mock.Mock(buffer=io.BytesIO(data.getvalue()))\n"
        "from mlx_lfm2vl.commands.generate import main\n"
        f"assert main({[*arguments, '--image', '-']}) == 0"
    )
    loaded = modules_after(code)
    assert not loaded & set(HEAVY)
    assert ("mlx" in loaded) == (extra == [])


def test_every_public_name_is_importable():
    for name in mlx_lfm2vl.__all__:
        assert getattr(mlx_lfm2vl, name) is not None
    assert callable(mlx_lfm2vl.generate)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlx_lfm2vl.nothing
