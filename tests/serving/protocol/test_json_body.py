"""Bodies as JSON objects: bounds on depth and number of values."""

import json

import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.serving.protocol.json_body import MAX_DEPTH, MAX_VALUES, parse_object


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b" \n", "is empty, expected a JSON object"),
        (b"null", "is null, expected a JSON object"),
        (b"[1]", "is a list, expected a JSON object"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": -Infinity}', "is not a number of JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "value has 5000 digits$"),
        (b'\xff\xfe{\x00"\x00', "is not UTF-8"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'{"a":' * 100_000, "more than 100 levels deep"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "more than 100 levels deep"),
        (b'{"a":[' + b"0," * MAX_VALUES + b"0]}", "more than 500,000 values"),
    ],
    ids=range(13),
)
def test_what_is_no_object_of_json_is_refused_in_one_line(body, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_object(body)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_text_in_any_script_a_byte_order_mark_and_the_deepest_object_pass():
    value = {"a": "😀é", "b": {}}
    assert parse_object(json.dumps(value).encode()) == value
    assert parse_object(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse_object(json.dumps(value, ensure_ascii=False).encode("utf-8-sig")) == value
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse_object(deepest)
