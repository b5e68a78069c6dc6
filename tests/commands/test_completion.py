"""The scripts for shells know every command, option and choice."""

import subprocess

import pytest

from mlx_lfm2vl import cli


@pytest.fixture
def script(capsys):
    def script(shell: str) -> str:
        assert cli.main(["completion", shell]) == 0
        return capsys.readouterr().out

    return script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["conv"], {"convert"}),
        (["generate", "--max-t"], {"--max-tiles", "--max-tokens"}),
        (["train", "--method", ""], {"lora", "dora", "full"}),
        (["convert", "--mode", "mx"], {"mxfp4", "mxfp8"}),
        (["completion", "f"], {"fish"}),
        (["generate", "photo"], set()),  # bash completes files itself
    ],
)
def test_bash_completes(script, words, expected):
    typed = " ".join(f"'{word}'" for word in ["mlx_lfm2vl", *words])
    code = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _mlx_lfm2vl; echo ${{COMPREPLY[@]}}"
    run = subprocess.run(["bash", "-c", script("bash") + code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == expected


def test_zsh_reads_the_script_of_bash(script):
    first, rest = script("zsh").split("\n", 1)
    assert first == "autoload -U +X bashcompinit && bashcompinit"
    assert rest == script("bash")


def test_fish_is_told_every_command_option_and_choice(script):
    text = script("fish")
    lines = text.splitlines()
    assert all(line.startswith("complete -c mlx_lfm2vl -n ") for line in lines)
    for name in cli.COMMANDS:
        assert any(f"-a {name} -d '" in line for line in lines)
    seen = "'__fish_seen_subcommand_from generate'"
    assert any(f"{seen} -s i -l image -d" in line for line in lines)
    assert any("-l dtype -xa 'float32 float16 bfloat16'" in line for line in lines)
    assert any("-xa 'bash zsh fish'" in line for line in lines)


def test_an_unknown_shell_is_refused(capsys):
    assert cli.main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
