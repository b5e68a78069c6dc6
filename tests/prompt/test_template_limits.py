"""Hostile templates end in a documented error, soon and without taking the memory."""

# ruff: noqa: E501  templates read best on one line

import contextlib
import random
import time

import pytest
from mutations import peak_bytes, seeds

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.prompt import template_limits
from mlx_lfm2vl.prompt.template import MAX_BYTES, ChatTemplate

MESSAGES = [{"role": "user", "content": "one two three"}, {"role": "assistant", "content": "x"}]
LONG = "{% set s = 'ab' * 1000000 %}"
MANY = "{% set xs = range(1000)|list %}"
DOUBLED = "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60


def rendered(source: str) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(MESSAGES)


ATTACKS = [
    "{{ 'a' * 10**10 }}",
    "{{ 10**5000 }}",
    "{{ 10**(10**10) }}",
    "{% set ns = namespace(n=3) %}" + "{% set ns.n = ns.n * ns.n %}" * 60 + "{{ ns.n }}",
    "{{ " + "9" * 10_000 + " }}",
    "{{ 'a' * 10**9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000d}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ '\t'.expandtabs(10**10) }}",
    "{{ 'a'|indent(10**10, first=True) }}",
    "{{ 'a'|center(10**10) }}",
    "{{ [1]|batch(10**10, 'x')|list }}",
    "{{ range(9)|slice(10**9)|list }}",
    "{{ lipsum(max=10**8) }}",
    "{{ (s * 3).replace('', s) }}".replace("s", "'aaaaaaaaaa' * 100000", 1),
    LONG + "{{ s.replace('a', s) }}",
    LONG + "{{ s|replace('a', s) }}",
    LONG + "{{ s.join(s) }}",
    LONG + "{{ s|join(s) }}",
    LONG + "{{ s.translate({97: s}) }}",
    LONG + "{{ ('{0}' * 100000).format(s) }}",
    LONG + "{{ ('%(a)s' * 100000) % {'a': s} }}",
    LONG + "{% for i in range(100000) %}{{ s }}{% endfor %}",
    LONG + "{% for i in range(100000) %}{% if 'zz' in s %}{% endif %}{% endfor %}",
    LONG + "{% set l = [" + "s, " * 4000 + "] %}{{ l }}",
    LONG + "{{ " + " ~ ".join(["s"] * 4000) + " }}",
    LONG + "{{ (s * 30)|list|length }}",
    LONG + "{{ (s * 30).split('a')|length }}",
    "{% set s = 'a' %}" + "{% set s = s ~ s %}" * 60 + "{{ s|length }}",
    "{% set s = 'a' %}" + "{% set s = s + s %}" * 60 + "{{ s|length }}",
    "{% set s = 'a' %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 60,
    DOUBLED + "{{ x }}",
    DOUBLED + "{{ x|tojson }}",
    DOUBLED.replace("x", "y") + DOUBLED + "{{ x == y }}",
    "{% set n = namespace() %}" + "{% set n = namespace(a=n, b=n) %}" * 60 + "{{ n }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    MANY
    + "{% for a in xs %}{% for b in xs %}{% for c in xs %}{% endfor %}{% endfor %}{% endfor %}",
    MANY + "{% for a in xs for b %}{% endfor %}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(900) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ messages|tojson(indent=10**9) }}",
    "{{ messages|tojson(separators=('a' * 10**7, ':')) }}",
    "{{ 1.5|round(10**9) }}",
    "{{ (5).to_bytes(10**10, 'big') }}",
    "{{ range(2000)|map('list')|sum(start=[]) }}",
    "{{ strftime_now('%d' * 10**6) }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "{% set x = (1,) %}" + "{% set x = (x, x) %}" * 60 + "{{ {x: 1} }}",
    DOUBLED.replace("x", "y") + DOUBLED + "{{ [x, y]|max }}{{ [x].index(y) }}",
    MANY + "{{ xs|groupby('real')|length }}" * 5000,
    "{{ messages|map(attribute='" + "a." * 30_000 + "')|list }}",
    "{% set n = namespace(g=xs) %}{% for i in xs %}{% set n.g = n.g|map('string') %}{% endfor %}"
    "{{ n.g|list }}".replace("xs", "range(50000)"),
    "{% set n = namespace(a=1) %}{% for i in range(50000) %}{% set n.a = [n.a] %}{% endfor %}{{ n }}",
    "{% macro f(a=range(90000)|list) %}{% endmacro %}{% for i in range(9999) %}{{ f() }}{% endfor %}",
    "{% set c = cycler(*range(90000)) %}{{ c.items }}" * 99,
    "{{ strftime_now('%999999999d') * 10**9 }}",
    "{{ ('a'|safe) * 10**9 }}",
    "{{ 'ab'[::-1] * 10**7 }}",
    "{{ range(90000)|map(attribute='real" + ".real" * 20_000 + "')|list }}",
    "{{ range(90000)|sort(attribute='real" + ".real" * 20_000 + "') }}",
    "{% break %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if x %}" * 500 + "{% endif %}" * 500,
    "{{ " + "-" * 50_000 + "1 }}",
    "{{ 1 }}" * 100_000,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda source: source[:60])
def test_what_takes_too_much_is_refused(attack, monkeypatch):
    # A fiftieth of the work, so a fiftieth of the time.
    monkeypatch.setattr(template_limits, "BASE_UNITS", template_limits.BASE_UNITS // 50)
    begun, before = time.process_time(), peak_bytes()
    with pytest.raises((CheckpointError, InputError), match="chat template") as error:
        rendered(attack)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert time.process_time() - begun < 3
    assert peak_bytes() - before < 500e6


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda source: source[:60])
def test_what_takes_too_much_is_refused_in_time(attack):
    begun = time.process_time()
    with pytest.raises((CheckpointError, InputError), match="chat template"):
        rendered(attack)
    assert time.process_time() - begun < 10


def test_the_largest_source_compiles_in_time():
    source = "{{ 1 }}" * (MAX_BYTES // 7)
    begun = time.process_time()
    assert rendered(source) == "1" * (MAX_BYTES // 7)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }};{% endfor %}",
            None,
        ),
        (
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% if not loop.last %},{% endif %}{% endfor %}",
            None,
        ),
        ("{{ messages[0].content.split(' ')[-1].upper() ~ 1 ~ messages|length }}", "THREE12"),
        ("{{ 'a,b'.split(',')|join('-') + '|' + ['x', 1]|join }}", "a-b|x1"),
        ("{{ '%s is %5.1f'|format('a', 2) ~ '{:>4}'.format('b') }}", "a is   2.0   b"),
        ("{{ 'a\nb'|indent(2) ~ ('=' * 3) ~ 'x'.center(5) }}", "a\n  b===  x  "),
        ("{{ (messages|tojson(indent=1))[:20] ~ [1, 2, 3]|sum ~ 2 ** 10 }}", None),
        (
            "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
            "3210",
        ),
        (
            "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t ~ m.role[0] %}{% endfor %}{{ ns.t }}",
            "ua",
        ),
        (
            "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list }}",
            "['one two three']",
        ),
        (
            "{% for i in range(5) if i % 2 %}{{ i }}{% else %}none{% endfor %}{{ 1.25|round(1) }}",
            "131.2",
        ),
    ],
)
def test_ordinary_templates_render_as_in_a_plain_sandbox(source, expected):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from mlx_lfm2vl.prompt.template_limits import tojson

    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    plain.filters["tojson"] = tojson if "indent" not in source else plain.filters["tojson"]
    text = rendered(source)
    if expected is None and "indent" not in source:
        expected = plain.from_string(source).render(messages=MESSAGES)
    assert expected is None or text == expected
    assert text


def test_a_long_conversation_is_not_too_much_work():
    loop = "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    long = [{"role": "user", "content": "some words " * 100}] * 5000
    text = ChatTemplate(loop, "<s>", "</s>").render(long)
    assert text.count("</s>") == 5000


FRAGMENTS = [
    "{{ messages }}", "{{ messages[0].content }}", "{% set x = [x, x] %}", "{{ x }}", "{{ s * 99 }}",
    "{% set s = s ~ s ~ 'ab' %}", "{% for m in messages %}", "{% for c in s %}", "{% endfor %}",
    "{% if s in x %}", "{% else %}", "{% endif %}", "{% macro f(a) %}", "{% endmacro %}",
    "{{ f(s) }}", "{{ s.join(x) }}", "{{ s.replace('a', s) }}", "{{ x|tojson(indent=2) }}",
    "{{ x|map('upper')|list }}", "{{ s|list|sort|join(s) }}", "{% set x = x * 9 + [s] %}",
    "{% set s %}", "{% endset %}", "{% filter upper %}", "{% endfilter %}", "{% block b %}",
    "{% endblock %}", "{{ self.b() }}", "{{ 9 ** 99 ** 9 }}", "{{ s[::-1] }}", "{{ s.split('') }}",
    "{{ range(99999)|list }}", "{{ dict(a=x, b=x) }}", "{{ namespace(a=s) }}", "{{ loop.index }}",
    "{% break %}", "{{ cycler(s, x).next() }}", "{{ joiner(s)() }}", "{{ raise_exception(s) }}",
    "{% generation %}", "{% endgeneration %}", "{% raw %}", "{{ '%s' % x }}", "{{ s.format(x) }}",
    "{% call f(s) %}", "{% endcall %}", "{{ caller() }}", "{# ", "\x00", "{{ x|groupby(0) }}",
    "{{ x|unique|list }}", "{{ -s }}", "{{ s|int ** 50 }}", "{{ x is sameas s }}", "{{ x|dictsort }}",
]  # fmt: skip


@seeds(200, 5_000)
def test_any_template_renders_or_is_refused(bounds, cases):
    for case in range(cases):
        draw = random.Random(case)
        body = "".join(draw.choices(FRAGMENTS, k=draw.randrange(1, 25)))
        source = "{% set s = 'a b' %}{% set x = [s, 1] %}" + body
        with (
            bounds.case(f"{case}: {source}"),
            contextlib.suppress(CheckpointError, InputError),
        ):
            rendered(source)
