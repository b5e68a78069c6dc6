"""The architecture as a rule: imports go downwards only, and starting up stays light."""

import ast
import functools
from pathlib import Path

import pytest
from processes import HEAVY, modules_after

import mlx_lfm2vl

PACKAGE = Path(mlx_lfm2vl.__file__).parent
# A unit imports units of rows above its own, and nothing of its own row but itself.
ROWS = [
    {"errors"},
    {"constraints"},
    {"device", "disk_space", "options"},
    {"whole_folder", "device_thread"},
    {"arrays", "drawing"},
    {"checkpoint"},
    {"images", "model"},
    {"prompt", "adapters"},
    {"loading"},
    {"drafter_loading"},
    {"generation", "training"},
    {"saving", "speed", "skills"},
    {"quantize", "desktop", "serving"},
    {"device_check", "llm_plugin"},
    {"commands"},
    {"benchmark", "chat", "cli", "convert", "fuse", "generate", "run", "serve", "train"},
]
NEVER = {"torch", "transformers"}
WITHOUT = {  # what a unit does not know, so that its neighbours can be read without it
    "constraints": {"mlx"},
    "images": {"mlx"},
    "prompt": {"mlx"},
    "model": {"PIL", "tokenizers", "jinja2", "huggingface_hub"},
    "generation": {"PIL", "tokenizers", "jinja2", "huggingface_hub"},
}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> tuple[set[str], set[str]]:
    """Our own units, and foreign packages, that a file imports anywhere."""
    depth = len(path.relative_to(PACKAGE).parts)
    ours, foreign = set(), set()
    for node in nodes(path):
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


def test_units_import_only_rows_above_their_own():
    above: set[str] = set()
    for row in ROWS:
        for unit in row:
            for path in files(unit):
                assert imports(path)[0] - {unit} <= above, path
        above |= row
    modules = {path.stem for path in PACKAGE.glob("[!_]*.py")}
    assert above == modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_no_module_imports_torch_or_transformers():
    for path in PACKAGE.rglob("*.py"):
        assert not imports(path)[1] & NEVER, path


def test_a_unit_does_without_what_its_work_does_not_need():
    for unit, foreign in WITHOUT.items():
        for path in files(unit):
            assert not imports(path)[1] & foreign, path


def test_only_a_few_files_reach_the_network():
    users = {"huggingface_hub", "http", "socket", "ssl"}
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if imports(path)[1] & users
    }
    assert found == {
        "checkpoint/cached_copy.py",  # where the cache is
        "checkpoint/download.py",
        "checkpoint/hub_cache.py",
        "checkpoint/hub_errors.py",
        "checkpoint/publish.py",
        "images/fetch.py",
        "serving/http/server.py",  # listens
        "serving/resident/http.py",  # by a Unix socket, as the next two
        "serving/resident/place.py",
        "serving/resident/server.py",
    }


def test_only_commands_print():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] == "commands" or path.name == "cli.py":
            continue
        if path.name == "mlx_vlm_stages.py":  # a program of its own, which another Python runs
            continue
        calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
        names = {n.func.id for n in calls if isinstance(n.func, ast.Name)}
        assert "print" not in names, path


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


def test_public_names_are_listed_and_never_hidden_by_a_command():
    assert set(dir(mlx_lfm2vl)) == {*mlx_lfm2vl.__all__, "__version__"}
    assert mlx_lfm2vl._HOMES.keys() == set(mlx_lfm2vl.__all__)
    code = (
        "import mlx_lfm2vl.generate, mlx_lfm2vl.convert\n"
        "import mlx_lfm2vl.generate as again\n"
        "from mlx_lfm2vl import generate\n"
        "from mlx_lfm2vl.generation.once import generate as function\n"
        "assert generate is mlx_lfm2vl.generate is again is function"
    )
    modules_after(code)
