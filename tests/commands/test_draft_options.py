"""A draft model in commands: the same answers, and what the drafts brought."""

import json

import pytest
from drafters import DRAFTERS, make_target
from pictures import make_picture

import mlx_lfm2vl
from mlx_lfm2vl import cli, loading
from mlx_lfm2vl.generation.result import Result

DRAFTER = str(DRAFTERS / "tied")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return str(make_target(tmp_path_factory.mktemp("target"), "tied"))


@pytest.fixture
def ask(target, tmp_path, monkeypatch, capsys):
    """Runs a command on pictures; gives its code, what it answered and what it said."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        make_picture(45, 44, seed).save(name)

    def ask(command, *arguments):
        code = cli.main([command, "-m", target, "--max-tokens", "24", "--temp", "0", *arguments])
        return code, *capsys.readouterr()

    return ask


def test_a_drafted_answer_is_the_plain_one_and_says_what_the_drafts_brought(ask):
    question = ("generate", "a.png", "What is it?", "--token-ids", "--json", "--seed", "3")
    _, plain, _ = ask(*question)
    code, drafted, told = ask(*question, "--draft-model", DRAFTER, "--draft-tokens", "3", "-V")
    one, other = json.loads(plain), json.loads(drafted)
    assert code == 0
    assert other["token_ids"] == one["token_ids"]
    assert one["drafts"] == {
        "drafted": 0,
        "accepted": 0,
        "rounds": 0,
        "accepted_lengths": [],
        "tokens_per_round": 0,
    }
    drafts = other["drafts"]
    assert drafts["rounds"] == sum(drafts["accepted_lengths"]) > 3
    assert len(drafts["accepted_lengths"]) <= 4
    assert drafts["drafted"] > drafts["rounds"]
    assert f" {drafts['tokens_per_round']:.2f} tokens per round" in told


def test_each_question_of_several_is_drafted(ask):
    questions = ("generate", "a.png", "--ask", "What is it?", "--ask", "Why?", "--json")
    drafting = ("--draft-model", DRAFTER, "--draft-tokens", "2")
    plain, drafted = json.loads(ask(*questions)[1]), json.loads(ask(*questions, *drafting)[1])
    assert [each["text"] for each in drafted] == [each["text"] for each in plain]
    assert all(each["drafts"]["rounds"] for each in drafted)


def test_a_caption_is_drafted(ask):
    drafting = ("--draft-model", DRAFTER, "--draft-tokens", "2", "-V")
    code, drafted, told = ask("caption", "a.png", *drafting)
    assert code == 0
    assert drafted == ask("caption", "a.png")[1]
    assert "tokens per round" in told


def test_a_batch_that_is_not_drafted_is_said(ask):
    arguments = ("generate", "a.png", "b.png", "--each", "-p", "What is it?")
    code, answers, told = ask(*arguments, "--draft-model", DRAFTER)
    assert code == 0
    assert "note: a batch is drafted only with --draft-tokens" in told
    assert answers == ask(*arguments)[1]


def test_a_batch_with_a_constraint_is_drafted(ask):
    question = ("-p", "Which?", "--regex", "[a-z]{9}", "--json")
    arguments = ("generate", "a.png", "b.png", "--each", *question)
    drafting = ("--draft-model", DRAFTER, "--draft-tokens", "2")
    code, answers, told = ask(*arguments, *drafting)
    drafted, plain = (
        [json.loads(line) for line in text.splitlines()] for text in (answers, ask(*arguments)[1])
    )
    assert code == 0
    assert "note" not in told
    assert [each["text"] for each in drafted] == [each["text"] for each in plain]
    assert all(each["drafts"]["rounds"] for each in drafted)


def test_no_proposals_means_no_drafter(ask, monkeypatch):
    monkeypatch.setattr(mlx_lfm2vl, "load_drafter", None)
    code, _, told = ask(
        "generate", "a.png", "Hi?", "--draft-model", DRAFTER, "--draft-tokens", "0", "-V"
    )
    assert code == 0
    assert "per round" not in told


def test_a_drafter_of_another_model_is_refused_before_weights_are_read(ask, monkeypatch):
    monkeypatch.setattr(loading, "load_model", None)
    code, _, told = ask("generate", "Hi?", "--draft-model", str(DRAFTERS / "quantized"))
    assert code == 1
    assert "the drafter is of another model: its hidden_size is 64, expected 32" in told
    code, _, told = ask("generate", "Hi?", "--draft-model", "nowhere")
    assert code == 2
    assert "nowhere is neither a folder nor a repo id" in told


def test_proposals_without_a_drafter_are_refused(ask):
    for command, word in (("generate", "Hi?"), ("caption", "a.png")):
        code, _, told = ask(command, word, "--draft-tokens", "3")
        assert code == 2
        assert "--draft-tokens needs --draft-model" in told


def test_tokens_per_round_count_the_model_s_own():
    fields = dict.fromkeys(Result.__dataclass_fields__, None)
    assert Result(**{**fields, "rounds": {0: 1, 3: 2}}).tokens_per_round == 3
    assert Result(**{**fields, "rounds": {}}).tokens_per_round == 0
