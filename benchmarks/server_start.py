"""Measure how soon a server answers after its process starts, with the demo model.

usage: python benchmarks/server_start.py [--starts 7]

It tells the median of the seconds until the server answers on `/health`, and until it has answered
a first question; and the seconds of the processor until `/health`, on which other programs at work
have no influence.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import urllib.request

COMMAND = [sys.executable, "-m", "mlx_lfm2vl.serve", "--model", "demo", "--port", "0"]
QUESTION = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=7)
    starts = parser.parse_args().starts
    until_health, until_answer = zip(*(start() for _ in range(starts)), strict=True)
    used = statistics.median(only_health() for _ in range(starts))
    print(f"/health answers after {statistics.median(until_health):.2f} s")
    print(f"a question is answered after {statistics.median(until_answer):.2f} s")
    print(f"processor until /health: {used:.2f} s")


def start() -> tuple[float, float]:
    """Start a server; return the seconds until it answers, and until it has answered."""
    begun = time.monotonic()
    with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True) as process:
        address = listening(process)
        urllib.request.urlopen(f"{address}/health").read()
        healthy = time.monotonic() - begun
        headers = {"Content-Type": "application/json"}
        url, body = f"{address}/v1/chat/completions", json.dumps(QUESTION).encode()
        urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
        answered = time.monotonic() - begun
        process.kill()
    return healthy, answered


def only_health() -> float:
    """Start a server that loads no model, and end it; return what it used of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*COMMAND, "--keep-alive", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        urllib.request.urlopen(f"{listening(process)}/health").read()
        process.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def listening(process: "subprocess.Popen[str]") -> str:
    """Wait until a server listens; return its address."""
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("listening on "), line
    return line.split()[-1]


if __name__ == "__main__":
    main()
