"""Calls of tools in answers: read as plain data, never evaluated, or refused with a reason."""

import pytest

from mlx_lfm2vl.prompt.call_syntax import MAX_CHARACTERS, MAX_DEPTH
from mlx_lfm2vl.prompt.tool_calls import parse_calls

READ = {
    "Python": ("[f(x=1, y='a')]", {"x": 1, "y": "a"}),
    "no brackets": ('f(x="a")', {"x": "a"}),
    "no arguments": ("[f()]", {}),
    "spaces": (" [ f ( x = 1 , ) , ]\n", {"x": 1}),
    "numbers": ("[f(a=-1, b=0.5, c=1e3, d=+2, e=.5)]", dict(a=-1, b=0.5, c=1000.0, d=2, e=0.5)),
    "constants": ("[f(a=True, b=false, c=None, d=null)]", dict(a=True, b=False, c=None, d=None)),
    "lists": ('[f(a=[1, [2]], b=(3, "x"))]', {"a": [1, [2]], "b": [3, "x"]}),
    "JSON in Python": ('[f(a={"k": {"v": true}})]', {"a": {"k": {"v": True}}}),
    "a dict": ("[f(a={'k': None})]", {"a": {"k": None}}),
    "escapes": (r"""[f(a='\'', b="\n\t\\\"\/", c="\d")]""", dict(a="'", b='\n\t\\"/', c="\\d")),
    "code points": (r'[f(a="\u00e9\x41\ud83d\ude00\U0001f600")]', {"a": "éA😀😀"}),
    "a line end": ('[f(a="x\ny")]', {"a": "x\ny"}),
    "signs in text": ("[f(a=\"), g(b='\")]", {"a": "), g(b='"}),
    "JSON": ('[{"name": "f", "arguments": {"x": [1]}}]', {"x": [1]}),
    "one object": ('{"name": "f", "parameters": {"x": 1}}', {"x": 1}),
    "OpenAI": ('[{"type": "function", "function": {"name": "f", "arguments": "{}"}}]', {}),
    "JSON in text": ('{"name": "f", "arguments": "{\\"x\\": 1}"}', {"x": 1}),
    "JSON, no arguments": ('{"name": "f"}', {}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "arguments"), READ.values(), ids=READ)
def test_a_call_is_read(text, arguments):
    assert parse_calls(text) == [{"name": "f", "arguments": arguments}]


def test_several_calls_stay_in_order():
    text = '[a.b(x=1), get-it(), {"name": "c", "arguments": {}}]'
    assert [call["name"] for call in parse_calls(text)] == ["a.b", "get-it", "c"]
    assert [call["name"] for call in parse_calls("f(), g()")] == ["f", "g"]


REFUSED = {
    "nothing": ("", "ends too early"),
    "an empty list": ("[]", "calls nothing"),
    "a sentence": ("I call f.", "'call' is not expected"),
    "cut": ('[f(x="a"', "ends too early"),
    "cut in a text": ('[f(x="a', "cannot be read"),
    "more behind it": ("[f()] g", "'g' is not expected"),
    "no name of the argument": ("[f(1)]", "'1' is given without the name"),
    "twice": ("[f(x=1, x=2)]", "given twice"),
    "a call within": ("[f(x=g())]", "'g' is not a value"),
    "code": ('[f(x=__import__("os").system("x"))]', "'__import__' is not a value"),
    "a sum": ("[f(x=1+1)]", "'+1' is not expected"),
    "an attribute": ("[f(x='a'.upper())]", "cannot be read"),
    "an octal": ("[f(x=007)]", "cannot be read"),
    "infinite": ("[f(x=1e999)]", "too large"),
    "infinite in JSON": ('{"name": "f", "arguments": "{\\"x\\": 1e999}"}', "too large"),
    "not a number": ('{"name": "f", "arguments": "{\\"x\\": NaN}"}', ""),
    "endless digits": (f"[f(x={'9' * 5000})]", "digits"),
    "half a character": (r'[f(x="\ud83d")]', ""),
    "no such character": (r'[f(x="\U00110000")]', ""),
    "a key of another kind": ("[f(x={1: 2})]", "'1' is not a key"),
    "a set": ("[f(x={1, 2})]", "is not a key"),
    "a number": ("[7]", "7 is not a call"),
    "no name": ('{"arguments": {}}', "names no function"),
    "an unknown key": ('{"name": "f", "args": {"x": 1}}', "'args' is unknown"),
    "arguments in a list": ('{"name": "f", "arguments": [1]}', "expected an object"),
    "both": ('{"name": "f", "arguments": {}, "parameters": {}}', "arguments and parameters"),
    "too deep": ("[f(x=" + "[" * MAX_DEPTH, "nested more than"),
    "too deep in text": ('{"name": "f", "arguments": "' + "[" * 200_000 + '"}', "nested"),
    "too long": ("[f(x='" + "a" * MAX_CHARACTERS + "')]", "characters"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_call_is_refused(text, why):
    with pytest.raises(ValueError, match=".") as error:
        parse_calls(text)
    assert why in str(error.value)


def test_every_beginning_of_a_call_is_refused_or_read():
    text = r"""[f(a='it\'s', b={"k": [1.5, null]}, c="\u00e9"), g()]"""
    for end in range(len(text)):
        with pytest.raises(ValueError, match="."):
            parse_calls(text[:end])
