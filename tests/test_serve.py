import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from benchmarks.serving import MALFORMED
from distilts_forecaster.cli.main import main
from distilts_forecaster.cli.serve import Limits, create_app
from distilts_forecaster.runtime import LinearForecaster, save_student
from distilts_forecaster.runtime.covariates import CovariateScales
from distilts_forecaster.runtime.effects import Effects
from distilts_forecaster.runtime.quantiles import ErrorQuantiles

L, T = 12, 4


def make():
    rng = np.random.default_rng(0)
    offsets = np.sort(rng.normal(size=(T, 3)), axis=1).astype(np.float32)
    weights = (rng.normal(size=(1, L, T)) / L).astype(np.float32)
    return LinearForecaster(weights, error_quantiles=ErrorQuantiles(offsets, (0.1, 0.5, 0.9)))


def start(folder, *more):
    process = subprocess.Popen(
        [sys.executable, "-m", "distilts_forecaster.cli.main", "serve", str(folder), "--port", "0"]
        + [str(one) for one in more],
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    return process, int(re.search(r"at http://127\.0\.0\.1:(\d+)", line)[1])


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "student"
    save_student(make(), folder)
    process, port = start(folder, "--timeout", 1, "--max-connections", 6)
    yield port
    process.kill()
    process.wait()


def ask(port, content, path="/predict", method="POST"):
    body = content if content is None or isinstance(content, (str, bytes)) else json.dumps(content)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer)


@pytest.mark.parametrize("shape", [(L,), (5,), (L, 2), (3, L, 1), (4, 20, 2)])
@pytest.mark.parametrize("horizon", [None, 1, 3 * T])
def test_answers_are_those_of_the_student(port, shape, horizon):
    context = np.random.default_rng(1).normal(size=shape)
    asked = {"context": context.tolist(), "quantile_levels": [0.2, 0.9]}
    asked |= {} if horizon is None else {"horizon": horizon}
    status, answer = ask(port, asked)
    assert status == 200
    np.testing.assert_allclose(answer["forecast"], make().predict(context, horizon), rtol=1e-6)
    expected = make().predict_quantiles(context, horizon, [0.2, 0.9])
    np.testing.assert_allclose(answer["quantiles"], expected, rtol=1e-6)


def test_missing_values_are_null_both_ways(port):
    status, answer = ask(port, {"context": [[1.0, None]] * L, "horizon": 2})
    assert status == 200
    assert answer == {"forecast": [[1.0, None], [1.0, None]]}
    holes = [1.0, None, 3.0, None, *range(8)]
    _, answer = ask(port, {"context": holes})
    expected = make().predict(np.array(holes, dtype=float))
    np.testing.assert_allclose(answer["forecast"], expected, rtol=1e-6)


def test_health_says_what_to_ask_for(port):
    status, answer = ask(port, None, "/health", "GET")
    assert status == 200
    assert answer["status"] == "ok"
    assert (answer["input_chunk_length"], answer["output_chunk_length"]) == (L, T)
    assert answer["quantile_levels"] == [0.1, 0.5, 0.9]


def test_the_page_of_the_api_says_what_a_request_holds(port):
    _, told = ask(port, None, "/openapi.json", "GET")
    body = told["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]) == {"context", "horizon", "quantile_levels"}
    assert body["schema"]["required"] == ["context"]
    assert ask(port, body["example"])[0] == 200


@pytest.mark.parametrize("kind", [kind for kind in MALFORMED if kind != "57 MB"])
def test_what_is_no_request_is_refused_with_a_reason(port, kind):
    status, answer = ask(port, MALFORMED[kind])
    assert status == 422
    assert 5 < len(answer["detail"]) < 1100


def test_bodies_beyond_the_bound_are_not_read(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000000\r\n\r\n"
        )
        assert b" 413 " in connection.recv(1000)
    chunk = b"80000\r\n" + b"1" * 0x80000 + b"\r\n"  # of unknown length, half a MiB each
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + 3 * chunk
        )
        assert b" 413 " in connection.recv(1000)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /predict HT",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
    ],
)
def test_requests_that_never_end_are_ended(port, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
        connection.sendall(sent)
        begun = time.monotonic()
        while connection.recv(65536):
            pass
        assert 0.5 < time.monotonic() - begun < 5


def test_connections_beyond_the_bound_are_told_so(port):
    many = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    try:
        assert ask_raw(port) == 503
    finally:
        for one in many:
            one.close()
    time.sleep(0.1)
    assert ask(port, None, "/health", "GET")[0] == 200


def ask_raw(port):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status


def test_requests_under_way_are_answered_before_it_stops(tmp_path):
    save_student(make(), tmp_path / "student")
    process, port = start(tmp_path / "student")
    body = b'{"context": [1, 2, 3], "horizon": 1}'
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body[:10]
        )
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(body[10:])
        assert b" 200 " in connection.recv(1000)
    process.wait(timeout=10)


def test_covariates_are_asked_for_by_name(tmp_path):
    scales = CovariateScales(future=np.array([[0.0], [1.0]]))
    weights = np.ones((1, T, 1), np.float32)
    effects = Effects(weights, scales, np.full((1, 3), np.nan))
    student = replace(make(), effects=effects)
    save_student(student, tmp_path / "student")
    process, port = start(tmp_path / "student")
    rng = np.random.default_rng(0)
    context, future = rng.normal(size=L), rng.normal(size=(L + T, 1))
    try:
        asked = {"context": context.tolist(), "future_covariates": future.tolist()}
        status, answer = ask(port, asked)
        assert status == 200
        expected = student.predict(context, future_covariates=future)
        np.testing.assert_allclose(answer["forecast"], expected, rtol=1e-6)
        for wrong in (None, future[1:].tolist(), [[None]] * (L + T), [["x"]]):
            asked["future_covariates"] = wrong
            status, answer = ask(port, asked)
            assert status == 422
            assert "future_covariates" in answer["detail"]
    finally:
        process.kill()
        process.wait()


def test_what_cannot_be_served_is_said(tmp_path, capsys):
    save_student(make(), tmp_path / "student")
    assert main(["serve", str(tmp_path / "nothing")]) == 2
    assert main(["serve", str(tmp_path / "student"), "--max-horizon", "2"]) == 2
    assert "forecasts 4 steps at once" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path / "student"), "--port", str(port)]) == 2


def test_limits_are_in_the_schema():
    app = create_app(make(), Limits(windows=7, horizon=9))
    told = json.dumps(app.openapi())
    assert '"maxItems": 7' in told
    assert '"maximum": 9' in told
