"""A fine-tune's own special tokens are letters in text, unless the user allows them."""

import re

import pytest
from special_tokens import OWN, add_own_tokens
from tokenizers import Tokenizer as Library

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.samples import SampleMaker

FORMAT = ["<|im_start|>", "<|im_end|>", "<|startoftext|>", "<image>", "<|image_start|>"]
LABELS = ["<|endoftext|>", "<|pad|>", "<|image_end|>", "<|img_thumbnail|>", "<|img_row_3_col_2|>"]


@pytest.fixture
def processor(checkpoint):
    return Processor.from_folder(add_own_tokens(checkpoint))


def question(text):
    return [{"role": "user", "content": text}]


def test_they_are_letters_by_default_and_that_is_said_once(processor, caplog):
    ids = processor(question("a <|leaf|> and a <|stem|>")).input_ids
    assert processor.tokenizer.id_of("<|leaf|>") not in ids
    note = "the text holds <|leaf|>, <|stem|> as letters; allow it with --special-tokens"
    assert caplog.messages == [note]
    processor(question("a <|leaf|> and a <|stem|>"))
    assert caplog.messages == [note]


def test_text_without_them_gives_the_same_ids_without_a_note(processor, caplog):
    messages = question("a leaf <| leaf |>")
    assert processor(messages).input_ids == processor(messages, special_tokens=OWN).input_ids
    assert caplog.messages == []


TEXTS = ["a <|leaf|> and a<|stem|>", "<|leaf|><|leaf|>", "<|leaf|", "<|/leaf|> é日"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("listed", [False, True])
def test_allowed_ones_get_the_ids_of_the_reference(processor, checkpoint, caplog, text, listed):
    content = [{"type": "text", "text": text}] if listed else text
    ids = processor(question(content), special_tokens=OWN).input_ids
    library = Library.from_file(str(checkpoint / "tokenizer.json"))
    rendered = processor.template.render(question(content))
    assert ids == library.encode(rendered, add_special_tokens=False).ids
    assert caplog.messages == []


def test_only_those_that_are_named_are_allowed(processor, caplog):
    ids = processor(question("<|leaf|><|stem|>"), special_tokens=["<|leaf|>"]).input_ids
    assert processor.tokenizer.id_of("<|leaf|>") in ids
    assert processor.tokenizer.id_of("<|stem|>") not in ids
    assert "holds <|stem|> as letters" in caplog.text


@pytest.mark.parametrize("name", [*FORMAT, *LABELS])
def test_those_of_the_format_are_never_allowed(processor, name, caplog):
    with pytest.raises(InputError, match="cannot be allowed in text: it belongs to"):
        processor(question("x"), special_tokens=["<|leaf|>", name])
    token = processor.tokenizer.id_of(name)
    plain = processor(question("x"), special_tokens=OWN).input_ids
    held = processor(question(f"x <|leaf|>{name}"), special_tokens=OWN).input_ids
    assert held.count(token) == plain.count(token)
    assert all("images stand beside the text" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("<|leav|>", "no special token '<|leav|>'; did you mean '<|leaf|>'"),
        ("What is this?", "no special token 'What is this.'; expected"),
    ],
)
def test_an_unknown_one_is_named_with_the_nearest(processor, name, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        processor(question("x"), special_tokens=[name])


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_one_that_takes_in_spaces_is_refused(checkpoint, flag):
    processor = Processor.from_folder(add_own_tokens(checkpoint, **{flag: True}))
    processor(question("a <|leaf|> b"))
    with pytest.raises(InputError, match="takes in the spaces beside it"):
        processor(question("x"), special_tokens=["<|leaf|>"])


def test_a_checkpoint_without_any_names_none(tiny):
    expected = re.escape("no special token '<|leaf|>', nor another to allow")
    with pytest.raises(InputError, match=f"{expected}$"):
        tiny[1](question("x"), special_tokens=["<|leaf|>"])


def test_answers_show_the_allowed_ones_only(processor):
    tokenizer = processor.tokenizer
    text = "ab<|leaf|> é<|stem|>!<|im_end|>"
    ids = tokenizer.encode_rendered(text)
    for shown, expected in {
        (): "ab é!",
        ("<|leaf|>",): "ab<|leaf|> é!",
        tuple(OWN): text.removesuffix("<|im_end|>"),
    }.items():
        stream = tokenizer.text_stream(shown)
        assert "".join(map(stream.add, ids)) + stream.finish() == expected


def test_rows_are_learned_with_the_ids_of_the_allowed_ones(processor, caplog):
    row = [*question("What?"), {"role": "assistant", "content": "A <|leaf|>."}]
    maker = SampleMaker(processor, {processor.tokenizer.id_of("<|im_end|>")}, None, ["<|leaf|>"])
    sample = maker(row)
    leaf = sample.input_ids.index(processor.tokenizer.id_of("<|leaf|>"))
    assert sample.is_answer[leaf]
    assert "⟦A <|leaf|>.<|im_end|>⟧" in maker.show(row)
    assert maker.lengths([row], "rows")
    assert caplog.messages == []
    with pytest.raises(InputError, match="cannot be allowed in text"):
        SampleMaker(processor, set(), None, ["<image>"])


def test_the_published_ones_of_the_format_are_not_allowed(published):
    processor = Processor.from_folder(published("LFM2.5-VL-450M"))
    names = processor.own_tokens.names
    assert any("reserved" in name for name in names)
    assert not any(
        part in name for name in names for part in ("image", "img", "<|im", "of", "tool")
    )


def test_a_mark_of_an_image_in_the_users_text_is_letters_and_that_is_said_once(processor, caplog):
    ids = processor(question("<image>What is it?")).input_ids
    processor(question("<image>What is it?"))
    assert processor.tokenizer.image_token_id not in ids
    assert caplog.messages == ["the text holds <image> as letters: images stand beside the text"]
    processor([{"role": "system", "content": "Write <image> tags."}, *question("x")])
    assert len(caplog.messages) == 1
