import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_first_lines_run():
    first = re.search(r"```python\n(.*?)```", README, flags=re.S).group(1)
    names = {}
    exec(first, names)
    assert len(names["forecast"]) == 96
    assert names["forecast"].start_time() > names["series"].end_time()


def test_the_commands_and_files_it_names_exist():
    root = Path(__file__).parents[1]
    for module in re.findall(r"python -m ((?:benchmarks|pretraining)\.\w+)", README):
        assert (root / Path(*module.split("."))).with_suffix(".py").is_file()
    headings = {h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", README, flags=re.M)}
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert link[1:] in headings if link.startswith("#") else (root / link).is_file()


def test_the_service_answers(tmp_path):
    from distilts_forecaster import LinearForecaster, save_student

    save_student(LinearForecaster(np.full((1, 4, 2), 0.25, np.float32)), tmp_path / "student")
    served = re.search(r"### Serve it\n\n```python\n(.*?)```", README, flags=re.S).group(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "serve.py").write_text(served.replace("8000", str(port)))
    package = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "serve.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        stderr=subprocess.DEVNULL,
    )

    def ask(content):
        for _ in range(200):
            with (
                contextlib.suppress(ConnectionRefusedError),
                closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection,
            ):
                connection.request("POST", "/", json.dumps(content))
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())
            time.sleep(0.05)
        raise TimeoutError

    try:
        assert ask({"context": [1.0, 2.0, 3.0, 4.0]}) == (200, [2.5, 2.5])
        assert ask({"context": "text"})[0] == 400
        assert ask({})[0] == 400
    finally:
        process.kill()
        process.wait()
