"""Any thread and asyncio may ask: the same answers, errors for who asked, and a clean end."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, InputError, Sampling, device_thread, user_message

GREEDY = AnswerOptions(max_tokens=6, sampling=Sampling())
pytestmark = pytest.mark.timeout(120)

# What each program below begins with: a tiny model, pictures, and who may ask.
START = f"""
import asyncio, os, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from concurrent.futures import ThreadPoolExecutor
from pictures import make_picture
from mlx_lfm2vl import AnswerOptions, Engine, Sampling, generate, load, stream_generate
FOLDER = {str(golden("new_names").folder)!r}
GREEDY = AnswerOptions(max_tokens=6, sampling=Sampling())
PICTURES = [make_picture(40 + 9 * i, 90, i) for i in range(20)]
def ask(model, processor, picture):
    return generate(model, processor, "What?", GREEDY, image=picture).token_ids
"""


def run(program: str) -> str:
    """What a program prints; it must end well, in silence and in time."""
    root = str(Path(device_thread.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", START + program],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def engine(tiny):
    return Engine(*tiny)


@pytest.fixture
def elsewhere():
    """A thread of the user's that runs a function and returns what it returns or raises."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=60)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param("", id="fresh"),
        pytest.param("ask(*loaded, PICTURES[3])", id="warm", marks=pytest.mark.slow),
    ],
)
def test_eight_threads_get_the_answers_of_one(tiny, begin):
    program = f"""
loaded = load(FOLDER, dtype="float32")
{begin}
answers = [[None] * 3 for _ in range(8)]
def work(thread):
    for turn in range(3):
        number = (turn + thread) % 3
        answers[thread][number] = ask(*loaded, PICTURES[number])
threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(all(answer == answers[0] for answer in answers), answers[0])
"""
    engine = Engine(*tiny)
    pictures = [make_picture(40 + 9 * i, 90, i) for i in range(3)]
    alone = [engine.generate("What?", GREEDY, image=picture).token_ids for picture in pictures]
    assert run(program) == f"True {alone}\n"


def test_a_model_loaded_by_one_thread_answers_all_others():
    program = """
with ThreadPoolExecutor(1) as pool:
    loaded = pool.submit(load, FOLDER, dtype="float32").result()
with ThreadPoolExecutor(2) as pool:
    others = list(pool.map(lambda picture: ask(*loaded, picture), PICTURES[:4]))
print(others == [ask(*loaded, picture) for picture in PICTURES[:4]])
"""
    assert run(program) == "True\n"


def test_a_thread_that_loads_a_model_makes_no_random_numbers_of_mlx_s():
    """Such a thread aborts the process if it ends while the interpreter shuts down."""
    program = """
import mlx.core as mx
drawn_by, draw = set(), mx.random.uniform
def uniform(*arguments, **named):
    drawn_by.add(threading.current_thread().name)
    return draw(*arguments, **named)
mx.random.uniform = uniform
with ThreadPoolExecutor(1) as pool:
    pool.submit(load, FOLDER).result()
print(drawn_by)
"""
    assert run(program) == "{'mlx_lfm2vl'}\n"


def test_asyncio_gets_the_same_answers_in_all_three_ways():
    program = """
async def streamed(engine, picture):
    return [t async for p in engine.astream("What?", GREEDY, image=picture) for t in p.token_ids]
async def main():
    loaded = await asyncio.to_thread(load, FOLDER, dtype="float32")
    engine = Engine(*loaded)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(way) for picture in PICTURES[:4] for way in (
            asyncio.to_thread(ask, *loaded, picture),
            engine.agenerate("What?", GREEDY, image=picture),
            streamed(engine, picture),
        )]
    found = [getattr(task.result(), "token_ids", task.result()) for task in tasks]
    print(all(found[i] == found[i // 3 * 3] for i in range(12)), len(set(map(str, found))) > 1)
asyncio.run(main())
"""
    assert run(program) == "True True\n"


@pytest.mark.parametrize("ending", ["daemon", "left running", "pieces left", "interrupted task"])
@pytest.mark.slow
def test_a_process_ends_well_whatever_is_under_way(ending):
    program = f"""
model, processor = load(FOLDER, dtype="float32")
engine = Engine(model, processor)
def forever():
    for _ in range(10**6):
        engine.generate("Hi", max_tokens=50)
def little():
    time.sleep(0.2)
    print(len(engine.generate("Hi", GREEDY).token_ids))
ending = {ending!r}
if ending == "daemon":
    for _ in range(4):
        threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.3)
elif ending == "left running":
    threading.Thread(target=little).start()
elif ending == "pieces left":
    with ThreadPoolExecutor(1) as pool:
        stream = engine.stream("Hi", max_tokens=50)
        pool.submit(next, stream).result()
else:
    async def main():
        task = asyncio.create_task(engine.agenerate("Hi", max_tokens=400))
        await asyncio.sleep(0.1)
    asyncio.run(main())
"""
    for _ in range(3):
        assert run(program) == ("6\n" if ending == "left running" else "")


def test_a_fork_is_told_so_instead_of_waiting_forever():
    program = """
import multiprocessing
model, processor = load(FOLDER, dtype="float32")
def child():
    for use in (lambda: generate(model, processor, "Hi", GREEDY), lambda: load(FOLDER)):
        try:
            use()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(30)
process.kill()
"""
    lines = run(program).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("Lfm2VLError this process was forked from one that had used MLX")


def test_the_main_thread_alone_starts_no_thread(engine):
    before = threading.active_count()
    engine.generate("Hi", GREEDY)
    assert threading.active_count() == before
    assert device_thread._THREAD._thread is None


def test_after_another_thread_asked_the_main_thread_and_its_old_streams_go_on(engine, elsewhere):
    expected = [piece.text for piece in engine.stream("Hi", GREEDY)]
    first, second = engine.stream("Hi", GREEDY), engine.stream("Hi", GREEDY)
    found = [[next(first).text], [next(second).text]]
    result = elsewhere(engine.generate, "Hi", GREEDY)
    assert "".join(expected) == result.text == engine.generate("Hi", GREEDY).text
    for pieces in zip(first, second, engine.stream("Hi", GREEDY), strict=False):
        found[0].append(pieces[0].text)
        found[1].append(pieces[1].text)
    assert found == [expected, expected]


def test_a_stream_may_move_between_threads_but_not_from_the_main_thread(engine, elsewhere):
    expected = engine.generate("Hi", GREEDY).token_ids
    stream = engine.stream("Hi", GREEDY)
    next(stream)
    with pytest.raises(InputError, match="the main thread began this answer"):
        elsewhere(next, stream)
    stream = engine.stream("Hi", GREEDY)
    pieces = [elsewhere(next, stream)]
    pieces += list(stream)  # here
    assert [token for piece in pieces for token in piece.token_ids] == expected


def test_errors_are_raised_where_the_question_was_asked(engine, elsewhere):
    with pytest.raises(InputError, match=r"'no\.png' does not exist"):
        elsewhere(lambda: engine.generate("Hi", image="no.png"))
    with pytest.raises(InputError, match="max_tokens"):
        asyncio.run(engine.agenerate("Hi", max_tokens=-1))

    def broken(_tokens, _logits):
        raise ZeroDivisionError("of the user's")

    with pytest.raises(ZeroDivisionError, match="of the user's"):
        asyncio.run(engine.agenerate("Hi", logits_processors=[broken]))
    assert elsewhere(engine.generate, "Hi", GREEDY).token_ids


class Counter:
    """A logits processor that changes nothing and counts tokens."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, _tokens, logits):
        self.tokens += 1
        return logits


def close(stream):
    next(stream)
    stream.close()


def drop(stream):
    for _ in stream:
        break


def die(stream):
    def read():
        for _ in stream:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()


@pytest.mark.parametrize("way", [close, drop, die])
def test_a_stream_that_nobody_reads_on_computes_nothing_more(engine, elsewhere, way):
    seen = Counter()
    elsewhere(lambda: way(engine.stream("Hi", GREEDY, logits_processors=[seen], max_tokens=200)))
    elsewhere(engine.generate, "Hi", GREEDY)
    before = seen.tokens
    assert 0 < before < 50
    elsewhere(engine.generate, "Hi", GREEDY)
    assert seen.tokens == before


def test_a_cancelled_task_stops_its_answer_and_no_other(engine):
    expected = engine.generate("Hi", GREEDY).token_ids
    seen = Counter()

    async def main():
        task = asyncio.create_task(
            engine.agenerate("Hi", logits_processors=[seen], max_tokens=400, temperature=0)
        )
        other = asyncio.create_task(engine.agenerate("Hi", GREEDY))
        while not seen.tokens:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await other).token_ids == expected
        async with aclosing(engine.astream("Hi", GREEDY)) as pieces:
            async for _ in pieces:
                break
        before = seen.tokens
        assert (await engine.agenerate("Hi", GREEDY)).token_ids == expected
        assert seen.tokens == before < 100

    asyncio.run(main())


def test_the_event_loop_goes_on_while_an_answer_is_computed(engine):
    async def main():
        ticks = 0
        task = asyncio.create_task(engine.agenerate("Hi", GREEDY, max_tokens=30))
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        assert ticks > 30

    asyncio.run(main())


@pytest.mark.parametrize("place", ["main thread", "other thread"])
def test_a_function_among_the_options_may_ask_a_question_itself(engine, elsewhere, place):
    told = []

    def report(_done, _total):
        told.append(engine.generate("And?", GREEDY).token_ids)

    def ask():
        return engine.generate("Hi", GREEDY, on_prefill=report).token_ids

    expected = engine.generate("Hi", GREEDY).token_ids
    assert (ask() if place == "main thread" else elsewhere(ask)) == expected
    assert told  # once for each segment of the prompt
    assert all(ids == engine.generate("And?", GREEDY).token_ids for ids in told)


def test_an_old_stream_of_the_main_thread_may_ask_after_others_did(engine, elsewhere):
    expected = engine.generate("And?", GREEDY).token_ids
    told = []

    def curious(_tokens, logits):
        if is_time:
            told.append(engine.generate("And?", GREEDY).token_ids)
        return logits

    is_time = False
    stream = engine.stream("Hi", GREEDY, logits_processors=[curious])
    next(stream)
    elsewhere(engine.generate, "Hi", GREEDY)
    is_time = True
    list(stream)
    assert told
    assert all(answer == expected for answer in told)


def test_a_batch_takes_its_conversations_in_the_thread_that_asks(engine, elsewhere):
    pictures = [make_picture(40, 90, number) for number in range(3)]
    expected = [engine.generate("What?", GREEDY, image=p).token_ids for p in pictures]
    threads = set()

    def conversations():
        for picture in pictures:
            threads.add(threading.current_thread())
            yield user_message("What?", [picture])

    def batch():
        found = dict(engine.stream_batch(conversations(), GREEDY, batch_size=2))
        return [found[number].token_ids for number in range(3)], threading.current_thread()

    found, asked = elsewhere(batch)
    assert found == expected
    assert threads == {asked}


def test_a_call_that_was_cancelled_before_its_turn_is_not_made():
    gate, made = threading.Event(), []
    device_thread._THREAD.submit(gate.wait, 20)
    cancelled = device_thread._THREAD.submit(made.append, 1)
    assert cancelled.cancel()
    gate.set()
    assert device_thread._THREAD.submit(len, made).result(20) == 0
