"""Where the pictures of a command come from: names, a list, the clipboard, the screen."""

import io
import sys
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.errors import Cancelled
from mlx_lfm2vl.images.inputs import Input

TINY = str(golden("new_names").folder)


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs `generate` in a folder of pictures; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "pics/1.png", "pics/below/2.png")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(20 + seed, 30, seed).save(name)

    def ask(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        short = ["-m", TINY, "--max-tokens", "1", "--temperature", "0", "-p", "Hi"]
        return cli.main(["generate", *short, *arguments]), *capsys.readouterr()

    return ask


def asked(out: str) -> list[str]:
    return [line[4:-4] for line in out.splitlines() if line.startswith("==> ")]


def test_pictures_come_from_names_then_a_list_then_clipboard_and_screen(ask, monkeypatch):
    image = Path("a.png").read_bytes()
    monkeypatch.setattr(
        "mlx_lfm2vl.images.clipboard.copied", lambda *_, **__: [Input("clipboard", image)]
    )
    monkeypatch.setattr(
        "mlx_lfm2vl.images.screenshot.take_screenshot", lambda **_: Input("screenshot", image)
    )
    chosen = ["--clipboard", "--screenshot", "--region", "--files-from", "-", "--recursive"]
    code, out, err = ask("--each", "pics", *chosen, stdin=b"a.png\ngone.png\n")
    assert (code, asked(out)) == (
        1,
        ["pics/1.png", "pics/below/2.png", "a.png", "clipboard", "screenshot"],
    )
    assert err == "error: 'gone.png' does not exist\n1 of 6 images not answered\n"


def test_a_folder_without_images_is_one_error_among_the_answers(ask):
    Path("empty").mkdir()
    code, out, err = ask("--each", "a.png", "empty", "pics/1.png")
    assert (code, asked(out)) == (1, ["a.png", "pics/1.png"])
    assert err == "error: empty: there are no images in empty\n1 of 3 images not answered\n"


def test_a_list_may_name_the_images_of_one_prompt(ask):
    Path("list").write_text("a.png\npics/1.png\n")
    code, out, err = ask("--files-from", "list", "--json")
    assert code == 0
    assert '"file": "a.png"' in out
    assert '"file": "pics/1.png"' in out
    assert "2 images in one prompt" in err
    assert ask("--plan", "--files-from", "list")[1].count(" tokens\n") == 2


def test_the_prompt_of_a_pipe_is_not_the_list(ask, capsys):
    assert ask("--files-from", "-", "-p", "-")[0] == 2
    code, _, err = ask("--files-from", "-", "-i", "-", stdin=b"a.png")
    assert (code, err) == (2, "error: stdin (-) can be used only once\n")
    assert cli.main(["generate", "-m", TINY, "--files-from", "-"]) == 2
    assert "the prompt is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--region", "a.png"], "--region selects a part of the screen: add --screenshot"),
        (["--files-from", "gone"], "the list of names 'gone' does not exist"),
        (["--clipboard"], "the clipboard can be read only on macOS"),
        (["--screenshot"], "a screenshot can be taken only on macOS"),
        (["--each", "pics/below/none"], "'pics/below/none' does not exist"),
        (["--recursive", "pics"], "pics is a folder; --each --image pics asks about each"),
    ],
)
def test_sources_that_are_not_there_are_refused(ask, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "platform", "linux")
    code, _, err = ask(*arguments)
    assert code == (1 if "--each" in arguments else 2)
    assert message in err


def test_a_folder_without_images_is_refused_before_a_model_is_loaded(ask, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.loading.load", lambda *_, **__: pytest.fail("loaded"))
    Path("empty/below").mkdir(parents=True)
    code, _, err = ask("--each", "empty")
    told = "there are no images in empty; --recursive enters the folders in it"
    assert (code, err) == (2, f"error: {told}\n")


def test_a_selection_that_was_broken_off_ends_with_130(ask, monkeypatch):
    def cancel(*, region: bool) -> Input:
        assert region
        raise Cancelled("no part of the screen was selected")

    monkeypatch.setattr("mlx_lfm2vl.images.screenshot.take_screenshot", cancel)
    code, out, err = ask("--screenshot", "--region")
    assert (code, out, err) == (130, "", "error: no part of the screen was selected\n")


def test_no_more_pictures_are_named_than_are_asked_about(ask, monkeypatch):
    from mlx_lfm2vl.commands import generate
    from mlx_lfm2vl.images.gather import gather

    named, ahead = [], []

    def counted(*words, **options):
        for image in gather(*words, **options):
            named.append(image.name)
            yield image

    def printed(*_) -> bool:
        ahead.append(len(named) - len(ahead))
        return True

    monkeypatch.setattr("mlx_lfm2vl.images.gather.gather", counted)
    monkeypatch.setattr(generate, "_print_one", printed)
    assert ask("--each", "--files-from", "-", stdin=b"a.png\n" * 30)[0] == 0
    assert len(named) == 30
    assert max(ahead) < 20
