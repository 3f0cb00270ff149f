"""The hub's client is the real one; the hub is a folder, or a small server on this machine."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from test_runtime_artifact import make

from distilts_forecaster import save_student

pytest.importorskip("huggingface_hub")

COMMIT = "a" * 40


def in_python(code, **environment):
    """Run code with the hub's settings, which are read when it is imported."""
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", **environment},
    )
    return out.stdout.strip(), out.stderr


def cached(folder, save):
    """Lay a student out as the hub's cache does: links to blobs."""
    repository = folder / "hub" / "models--owner--student"
    snapshot = repository / "snapshots" / COMMIT
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    save(folder / "saved")
    for file in (folder / "saved").iterdir():
        file.rename(repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    return snapshot


def test_a_student_is_found_in_the_hubs_cache(tmp_path):
    student = make("linear")
    snapshot = cached(tmp_path, lambda folder: save_student(student, folder))
    code = (
        "import numpy as np\n"
        "from distilts_forecaster.runtime import load_student\n"
        "for place in ('owner/student', {0!r}):\n"
        "    print(*load_student(place).predict(np.arange(8.0)))"
    )
    out, err = in_python(code.format(str(snapshot)), HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert len(out.splitlines()) == 2, err
    for line in out.splitlines():
        made = np.array(line.split(), float)
        np.testing.assert_allclose(made, student.predict(np.arange(8.0)), rtol=1e-6)


def test_what_is_not_on_the_hub_is_named(tmp_path):
    code = (
        "from distilts_forecaster.runtime import load_student\n"
        "try:\n    load_student('owner/nothing')\n"
        "except ValueError as error:\n    print(error)"
    )
    out, err = in_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert out.startswith("There is no directory owner/nothing, and the hub gives no"), err


def test_a_missing_client_is_named():
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from distilts_forecaster.runtime import load_student\n"
        "load_student('owner/student')"
    )
    assert 'pip install "distilts-forecaster[hub]"' in in_python(code)[1]


class Hub(BaseHTTPRequestHandler):
    """Takes one commit, as the hub would."""

    received: ClassVar[dict] = {}

    def log_message(self, *args):
        pass

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"sha": COMMIT, "siblings": [], "id": "owner/student"})

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        host = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            self.received["created"] = json.loads(content)
            self.answer({"url": f"{host}/owner/student", "id": "owner/student", "name": "student"})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            made = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in files
            ]
            self.answer({"files": made})
        elif "/commit/" in self.path:
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.received[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "header":
                    self.received["message"] = entry["value"]["summary"]
            self.answer({"commitUrl": f"{host}/owner/student/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"type": "model"})


@pytest.fixture
def hub():
    Hub.received = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_student_is_pushed_as_one_commit(tmp_path, hub):
    save_student(make("linear"), tmp_path / "student")
    code = (
        "import numpy as np\n"
        "from distilts_forecaster.runtime import load_student\n"
        "from distilts_forecaster.facades.student_io import Shippable\n"
        "model = Shippable()\n"
        f"model.student_ = load_student({str(tmp_path / 'student')!r})\n"
        "print(model.push_to_hub('owner/student', private=True, token='hf_x', "
        "commit_message='Mine'))"
    )
    out, err = in_python(code, HF_HOME=str(tmp_path), HF_ENDPOINT=hub)
    assert out.endswith(f"/owner/student/commit/{COMMIT}"), err
    received = Hub.received
    assert "private" in str(received["created"])
    assert received["message"] == "Mine"
    weights = (tmp_path / "student" / "model.safetensors").read_bytes()
    assert received["model.safetensors"] == weights
    assert b"library_name: distilts-forecaster" in received["README.md"]
    assert json.loads(received["config.json"])["student"] == "linear"
