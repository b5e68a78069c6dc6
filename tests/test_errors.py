"""Messages of errors are plain text, whatever files and servers put into them."""

import pytest

from mlx_lfm2vl.errors import InputError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u65e5\u672c \U0001f600", "caf\u00e9 \u65e5\u672c \U0001f600"),
        ("two\n  lines", "two\n  lines"),
        ("\x1b[31mred\x07\r", r"\x1b[31mred\x07\r"),
        ("9.41\u202fAM", r"9.41\u202fAM"),
        ("turned \u202egnp.exe", r"turned \u202egnp.exe"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_spelt_out(text, shown):
    assert printable(text) == shown
    assert str(InputError(text)) == shown


def test_an_error_has_the_arguments_it_was_given():
    assert InputError("a\x1b").args == ("a\x1b",)
    assert str(InputError()) == ""
