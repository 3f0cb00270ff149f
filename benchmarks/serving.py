"""What ``distilts serve`` takes: ``python -m benchmarks.serving``.

* ``--part load``: 8 clients send 20,000 requests of 512 values over loopback, to ``distilts serve``
  and to the same student behind Python's own ``http.server``: requests a second, and the median
  and 99th percentile of the time for an answer;
* ``--part malformed``: bodies that are no request, each with its status and time; and the memory
  of the service after them.

Clients and service share the machine's cores. Needs the extra ``serve``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from distilts_forecaster.runtime import LinearForecaster, save_student
from distilts_forecaster.runtime.quantiles import LEVELS, ErrorQuantiles

LOOKBACK, HORIZON = 512, 96

#: The least that answers: no limits, no checks, no health.
PLAIN = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from distilts_forecaster.runtime import load_student

student = load_student(sys.argv[1])

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"forecast": student.predict(asked["context"]).tolist()}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"at http://127.0.0.1:{server.server_port},", file=sys.stderr, flush=True)
server.serve_forever()
"""

#: Bodies that are no request.
MALFORMED = {
    "nothing": "",
    "no JSON": "context=1,2,3",
    "no text": b"\xff\xfe\x00\x01",
    "null": "null",
    "a list": "[1, 2, 3]",
    "no context": "{}",
    "an empty context": '{"context": []}',
    "a text": '{"context": "1, 2, 3"}',
    "texts": '{"context": ["1", "2"]}',
    "truths": '{"context": [true, false]}',
    "NaN": '{"context": [NaN]}',
    "infinity": '{"context": [-Infinity]}',
    "1e400": '{"context": [1e400]}',
    "a number of 100,000 digits": f'{{"context": [{"9" * 100_000}]}}',
    "lists 100,000 deep": '{"context": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "objects 100,000 deep": '{"a":' * 100_000,
    "four lists deep": '{"context": [[[[1]]]]}',
    "ragged": '{"context": [[1, 2], [3]]}',
    "250,000 texts": '{"context": [' + '"x",' * 250_000 + "1]}",
    "one text behind 500,000 numbers": '{"context": [' + "1," * 500_000 + '"x"]}',
    "too many windows": json.dumps({"context": [[[1.0]]] * 2000}),
    "horizon 0": '{"context": [1, 2], "horizon": 0}',
    "horizon 1e9": '{"context": [1, 2], "horizon": 1e9}',
    "horizon 10**30": f'{{"context": [1, 2], "horizon": {10**30}}}',
    "horizon 2.5": '{"context": [1, 2], "horizon": 2.5}',
    "horizon true": '{"context": [1, 2], "horizon": true}',
    "a level of 2": '{"context": [1, 2], "quantile_levels": [2]}',
    "falling levels": '{"context": [1, 2], "quantile_levels": [0.9, 0.1]}',
    "covariates not asked for": '{"context": [1, 2], "future_covariates": [[1]]}',
    "an unknown field": '{"context": [1, 2], "n": 3}',
    "57 MB": b" " * 57_000_000,
}


@contextmanager
def running(arguments: list[str]) -> Iterator[tuple[int, int]]:
    """Start a service; yield its port and process number."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"at http://[^:]+:(\d+)", line):
                yield int(found[1]), process.pid
                return
        raise RuntimeError("the service did not start")
    finally:
        process.terminate()
        process.wait()


def ask(connection: http.client.HTTPConnection, body: str | bytes) -> int:
    """Send a request, read the answer, return its status."""
    connection.request("POST", "/predict", body)
    response = connection.getresponse()
    response.read()
    return response.status


def load(port: int, clients: int, requests: int) -> tuple[float, np.ndarray]:
    """Return requests a second, and the seconds of each."""
    context = np.random.default_rng(0).normal(size=LOOKBACK).round(4).tolist()
    body = json.dumps({"context": context})

    def client(n: int) -> list[float]:
        seconds = []
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            for _ in range(n):
                start = time.perf_counter()
                status = ask(connection, body)
                seconds.append(time.perf_counter() - start)
                assert status == 200
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        taken = list(pool.map(client, [requests // clients] * clients))
        return requests / (time.perf_counter() - start), np.concatenate(taken)


def memory(process: int) -> tuple[float, float]:
    """Return the resident memory of a process, now and at most, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    now, most = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return now / 1000, most / 1000


def main() -> None:
    """Start the services and ask them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=["load", "malformed"], default=None)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        offsets = np.sort(rng.normal(size=(HORIZON, len(LEVELS))), axis=1).astype(np.float32)
        weights = (rng.normal(size=(1, LOOKBACK, HORIZON)) / LOOKBACK).astype(np.float32)
        student = LinearForecaster(weights, error_quantiles=ErrorQuantiles(offsets, LEVELS))
        save_student(student, folder)
        served = ["-m", "distilts_forecaster.cli.main", "serve", folder, "--port", "0"]
        if args.part in (None, "load"):
            for name, arguments in (("distilts serve", served), ("plain", ["-c", PLAIN, folder])):
                with running(arguments) as (port, process):
                    load(port, args.clients, 800)
                    rate, seconds = load(port, args.clients, args.requests)
                    median, worst = 1e3 * np.quantile(seconds, [0.5, 0.99])
                    print(
                        f"{name:16s}{rate:8,.0f} requests/s   p50 {median:6.1f} ms   p99 "
                        f"{worst:6.1f} ms   {memory(process)[0]:4.0f} MB",
                        flush=True,
                    )
        if args.part in (None, "malformed"):
            with running(served) as (port, process):
                for name, body in MALFORMED.items():
                    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                        start = time.perf_counter()
                        try:
                            status = str(ask(connection, body))
                        except OSError as error:  # it stopped listening while this was sending
                            status = type(error).__name__
                        seconds = time.perf_counter() - start
                    print(f"{name:36s}{status:>20s}{1e3 * seconds:8.1f} ms")
                print("memory {:.0f} MB, at most {:.0f} MB".format(*memory(process)))


if __name__ == "__main__":
    main()
