"""Mutated tokenizer files, with fixed seeds: read or refused, and the library never panics."""

import contextlib
import json
import random
from typing import Any

from conftest import golden
from mutations import damage_bytes, damage_json, seeds

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.prompt.expressions import KNOWN
from mlx_lfm2vl.prompt.tokenizer import Tokenizer

SOURCE = golden("new_names").folder
EXPRESSIONS = [
    *sorted(KNOWN),
    "(a+)+b",
    r"\\w+|[^\\w\\s]",
    "a*",
    "",
    r"\\p{L}+",
    "a|b",
    "x?y{1,3}",
    "\\\\1",
    "[",
]
LITERALS = ["", "a", " ", "ab", "\u2581", "\u00e9", "<image>", "a" * 5000]
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous", "None"]
NUMBERS = [0, 0, 1, 2, 7, 2**31, 2**63, 2**64, -1, 1.5]
FLAGS = [True, False]
TEXTS = [
    *(
        "",
        "Hello world",
        "  a b  ab\n\n 123 it's",
        "a" * 300,
        "\u00e9\u65e5\U0001f600\u0301 \0\ufffd",
    ),
    *("<image><|im_end|>", "\u2581a\u2581", " " * 300 + "x", "A\u0130\u1e9e\ufb03", "\ue000" * 9),
]


def drawn_pattern(draw: random.Random) -> dict[str, str]:
    is_literal = draw.random() < 0.5
    return {"String": draw.choice(LITERALS)} if is_literal else {"Regex": draw.choice(EXPRESSIONS)}


def drawn_step(draw: random.Random, depth: int = 2) -> Any:
    """A normalizer, pre-tokenizer or decoder of any kind, with values of any kind."""
    pattern, text, number, flag = (
        drawn_pattern(draw),
        draw.choice(LITERALS),
        draw.choice(NUMBERS),
        True,
    )
    steps = [drawn_step(draw, depth - 1) for _ in range(draw.randrange(4))] if depth else []
    return draw.choice(
        [
            {"type": "Replace", "pattern": pattern, "content": text},
            {
                "type": "Split",
                "pattern": pattern,
                "behavior": draw.choice(BEHAVIORS),
                "invert": flag,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": flag,
                "trim_offsets": flag,
                "use_regex": flag,
            },
            {"type": "Strip", "strip_left": flag, "strip_right": flag},
            {"type": "Strip", "content": text[:1], "start": number, "stop": draw.choice(NUMBERS)},
            {"type": "Prepend", "prepend": text},
            {
                "type": "Metaspace",
                "replacement": text[:1],
                "prepend_scheme": "always",
                "split": flag,
            },
            {"type": "FixedLength", "length": number},
            {"type": "CharDelimiterSplit", "delimiter": text[:1]},
            {"type": "Punctuation", "behavior": draw.choice(BEHAVIORS)},
            {"type": "Digits", "individual_digits": flag},
            {"type": "Precompiled", "precompiled_charsmap": draw.choice(["", "AAAA", text])},
            {"type": "WordPiece", "prefix": text, "cleanup": flag},
            {"type": "CTC", "pad_token": text, "word_delimiter_token": text, "cleanup": flag},
            {"type": "BPEDecoder", "suffix": text},
            {
                "type": draw.choice(
                    ["NFC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Whitespace"]
                )
            },
            {"type": draw.choice(["ByteFallback", "Fuse", "UnicodeScripts", "WhitespaceSplit"])},
            *[
                {"type": "Sequence", key: steps}
                for key in ("normalizers", "pretokenizers", "decoders")
            ],
        ]
    )


def drawn_tokenizer(draw: random.Random) -> bytes:
    """The file of a tiny tokenizer, with steps of any kind, and with damage."""
    values = json.loads((SOURCE / "tokenizer.json").read_text())
    model, count = values["model"], len(values["model"]["vocab"])
    values["added_tokens"] = values["added_tokens"][:20]  # so that damage reaches other places
    for name in draw.sample(["normalizer", "pre_tokenizer", "decoder"], draw.randrange(3)):
        values[name] = drawn_step(draw)
    kind = draw.randrange(8)
    if kind == 0:
        flags = {name: draw.choice(FLAGS) for name in ("lstrip", "rstrip", "normalized", "special")}
        id_ = draw.choice([count, 5, 7, 10**6, *NUMBERS])
        token = {"id": id_, "content": draw.choice(LITERALS), "single_word": draw.choice(FLAGS)}
        values["added_tokens"].append({**token, **flags})
    elif kind == 1:
        limits = {"max_length": draw.choice(NUMBERS), "stride": draw.choice(NUMBERS)}
        values["truncation"] = {**limits, "strategy": "LongestFirst", "direction": "Right"}
        padding = {"strategy": {"Fixed": draw.choice([0, 10**9])}, "direction": "Left", "pad_id": 0}
        padding |= {"pad_to_multiple_of": draw.choice(NUMBERS), "pad_type_id": 0, "pad_token": "a"}
        values["padding"] = draw.choice([None, padding])
    elif kind == 2:
        pieces = draw.choices([*LITERALS, "a", "aa", "aaaa", "b"], k=6)
        model["merges"] = [[piece, draw.choice(pieces)] for piece in pieces]
        for piece in [*pieces, *["".join(pair) for pair in model["merges"]]]:
            model["vocab"].setdefault(piece, len(model["vocab"]))
    elif kind == 3:
        name = draw.choice(["unk_token", "continuing_subword_prefix", "end_of_word_suffix"])
        model[name] = draw.choice(LITERALS)
        name = draw.choice(["byte_fallback", "fuse_unk", "ignore_merges", "dropout"])
        model[name] = draw.choice([True, False, 0.5, None])
    elif kind == 4:
        model["vocab"] = dict(draw.sample(sorted(model["vocab"].items()), count - 1))
    elif kind < 7:
        few = dict(list(model["vocab"].items())[:12])  # the rest comes back after the damage
        rest = {name: id_ for name, id_ in model["vocab"].items() if name not in few}
        model["vocab"] = few
        damage_json(values, draw)
        if isinstance(values.get("model"), dict) and isinstance(values["model"].get("vocab"), dict):
            values["model"]["vocab"] |= rest
    data = json.dumps(values).encode()
    return damage_bytes(data, draw) if kind == 7 else data


@seeds(300, 10_000)
def test_mutated_tokenizers_work_or_are_refused(checkpoint, capfd, bounds, cases):
    read = 0
    for case in range(cases):
        draw = random.Random(case)
        (checkpoint / "tokenizer.json").write_bytes(drawn_tokenizer(draw))
        with bounds.case(case), contextlib.suppress(CheckpointError, InputError):
            tokenizer = Tokenizer(checkpoint)
            read += 1
            for text in draw.sample(TEXTS, 3):
                with contextlib.suppress(CheckpointError, InputError):
                    tokenizer.encode_rendered(text)
            ids = [draw.randrange(tokenizer.largest_id + 1) for _ in range(20)]
            with contextlib.suppress(CheckpointError):
                tokenizer.decode(ids)
                tokenizer.decode_all(ids)
            stream = tokenizer.text_stream()
            for token in ids:
                stream.add(token)
            stream.finish()
        assert capfd.readouterr().err == "", case
    assert cases / 10 < read < cases
