"""`generate` with a schema, an expression, a choice or a grammar."""

import io
import json
import re
import sys
from unittest import mock

import jsonschema
import pytest
from conftest import golden

from mlx_lfm2vl.commands.generate import main as generate

MODEL = ["-m", str(golden("new_names").folder), "--max-tokens", "40"]
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return str(path)


def test_an_answer_is_json_of_a_schema_in_a_file_or_on_stdin(schema, capsys):
    assert generate([*MODEL, "Who?", "--json-schema", schema]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), SCHEMA)
    data = json.dumps(SCHEMA).encode()
    with mock.patch.object(sys, "stdin", mock.Mock(buffer=io.BytesIO(data))):
        assert generate([*MODEL, "Who?", "--json-schema", "-", "--json"]) == 0
    jsonschema.validate(json.loads(json.loads(capsys.readouterr().out)["text"]), SCHEMA)


def test_choices_are_told_from_the_prompt(capsys):
    assert generate([*MODEL, "--choice", "red", "blue", "Which color is it?"]) == 0
    assert capsys.readouterr().out in ("red\n", "blue\n")


def test_every_question_follows_an_expression_or_a_grammar(tmp_path, capsys):
    questions = ["--ask", "One?", "--ask", "Two?", "--json"]
    assert generate([*MODEL, *questions, "--regex", "[a-z]{3}-[0-9]"]) == 0
    for answer in json.loads(capsys.readouterr().out):
        assert re.fullmatch("[a-z]{3}-[0-9]", answer["text"])
    rules = tmp_path / "rules.lark"
    rules.write_text('start: "a" /[bc]/')
    assert generate([*MODEL, *questions, "--grammar", str(rules)]) == 0
    for answer in json.loads(capsys.readouterr().out):
        assert answer["text"] in ("ab", "ac")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json-schema", "/nowhere"], "/nowhere cannot be read: No such file"),
        (["--regex", "("], "the regular expression cannot be used: .*unclosed group"),
        (["--regex", "(?=a)b"], "look-ahead"),
        (["--choice", ""], "holds an empty string"),
        (["--regex", "a", "--choice", "b"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_is_loaded(options, message, capsys):
    with mock.patch("mlx_lfm2vl.loading.load", side_effect=AssertionError):
        assert generate([*MODEL, "--prompt", "Hi", *options]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "the JSON schema is not JSON: "),
        ("3", "the JSON schema is 3, expected an object"),
        ('{"not": {}}', r'cannot be used: Unimplemented keys: \["not"\]'),
        ('{"type": "string", "format": "phone"}', "Unknown format: phone"),
        ('{"oneOf": [{"type": "string"}, {"minLength": 1}]}', "oneOf, unless .*; use anyOf"),
        ('{"$ref": "https://example.com/x"}', "does not fetch resources"),
        (json.dumps({"const": "x" * 2**17}), "has 131085 bytes, expected at most 131072"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(
    tmp_path, schema, message, capsys
):
    path = tmp_path / "schema.json"
    path.write_text(schema)
    with mock.patch("mlx_lfm2vl.loading.load", side_effect=AssertionError):
        assert generate([*MODEL, "--prompt", "Hi", "--json-schema", str(path)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_without_the_library_the_extra_is_named(schema, capsys):
    with mock.patch.dict(sys.modules, {"llguidance": None}):
        assert generate([*MODEL, "Who?", "--json-schema", schema]) == 2
    assert "pip install llguidance" in capsys.readouterr().err
