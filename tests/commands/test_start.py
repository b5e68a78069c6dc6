"""How a program begins: Ctrl-C from its first line on, and descriptors that are missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

import mlx_lfm2vl

TINY = str(golden("new_names").folder)
ROOT = str(Path(mlx_lfm2vl.__file__).parents[1])
PROGRAMS = ["mlx_lfm2vl", *(f"mlx_lfm2vl.{name}" for name in ("generate", "convert", "train"))]


def run(
    arguments: str, *, first: str | Path = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a module by the shell, with the modules of a folder before all others."""
    path = os.pathsep.join([str(first), ROOT] if first else [ROOT])
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m {arguments}'],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path, "MLX_LFM2VL_DEBUG": "0", **variables},
    )


def press_ctrl_c_in(module: str, folder: Path) -> None:
    """Put a module before Python's that presses Ctrl-C, and is then the real one."""
    (folder / f"{module}.py").write_text(
        "import os, signal, sys\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.path.remove({str(folder)!r})\n"
        f"del sys.modules[{module!r}]\n"
        f"import {module}\n"
    )


@pytest.mark.parametrize(
    ("program", "module"), [*((name, "argparse") for name in PROGRAMS), (PROGRAMS[0], "logging")]
)
def test_ctrl_c_while_a_program_starts_says_nothing(tmp_path, program, module):
    press_ctrl_c_in(module, tmp_path)
    command = " generate" if program == "mlx_lfm2vl" else ""
    done = run(f"{program}{command} --help", first=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_while_a_command_imports_says_nothing(tmp_path, question):
    press_ctrl_c_in("tokenizers", tmp_path)
    done = run(question, first=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_program_that_is_started_to_ignore_ctrl_c_ignores_it(tmp_path):
    press_ctrl_c_in("argparse", tmp_path)
    code = "import signal, os, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "os.execv(sys.executable, [sys.executable, '-m', 'mlx_lfm2vl.generate', '--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: mlx_lfm2vl generate")


@pytest.fixture(scope="module")
def question(tmp_path_factory) -> str:
    picture = tmp_path_factory.mktemp("question") / "picture.png"
    make_picture(45, 44, 2).save(picture)
    settings = "--max-tokens 4 --temperature 0 --repetition-penalty 1"
    return f'mlx_lfm2vl.generate --model "{TINY}" --image "{picture}" --prompt Hi {settings}'


@pytest.fixture(scope="module")
def expected(question) -> str:
    """The answer in an ordinary terminal."""
    done = run(question)
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_closed_descriptor_changes_no_answer(question, expected, closed):
    done = run(f"{question} {closed}")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_notes_and_errors_never_reach_stdout_when_stderr_is_closed(question, expected):
    verbose = run(f"{question} --verbose 2>&-")
    assert (verbose.returncode, verbose.stdout) == (0, expected)
    failed = run("mlx_lfm2vl.generate --model nowhere --prompt Hi --image no.png 2>&-")
    assert (failed.returncode, failed.stdout, failed.stderr) == (2, "", "")


def test_a_closed_stdout_is_still_an_error(question):
    done = run(f"{question} >&-")
    assert done.returncode == 1
    assert done.stderr == "error: standard output is closed: nowhere to write the answer\n"


def test_other_commands_bear_a_closed_stdin(tmp_path):
    done = run(f'mlx_lfm2vl.convert --model "{TINY}" --output "{tmp_path / "copy"}" <&-')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy" / "config.json").exists()


@pytest.mark.parametrize("program", ["__main__", "generate", "convert", "train"])
def test_nothing_of_the_package_is_imported_before_ctrl_c_is_handled(program):
    # Until then Python's own start is interrupted, which prints what it wants.
    code = f"import sys, mlx_lfm2vl.{program}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ROOT}
    )
    ours = {name for name in done.stdout.split() if name.startswith("mlx_lfm2vl")}
    start = {"mlx_lfm2vl", "mlx_lfm2vl.commands", "mlx_lfm2vl.commands.start"}
    assert ours == {*start, f"mlx_lfm2vl.{program}"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", ["--version", "generate --help", "completion bash"])
def test_a_full_disk_is_one_line_and_a_failure(arguments):
    done = run(f"mlx_lfm2vl {arguments} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_missing_folder_of_temporary_files_is_not_used(question, expected):
    done = run(question, TMPDIR="/no/such/folder")
    assert (done.returncode, done.stdout) == (0, expected)
    note = "note: TMPDIR is /no/such/folder, where there is no folder: not used\n"
    assert done.stderr == note


def test_a_current_folder_that_is_gone_is_one_line(question, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir "{gone}" && "{sys.executable}" -m {question}'
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert (done.returncode, done.stdout) == (2, "")
    message = "error: the current folder no longer exists: change to another one\n"
    assert done.stderr == message
