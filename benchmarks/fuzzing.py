"""Damage what is read, ask for what cannot be, and count how it ends: ``deploy --part fuzz``.

Every attempt must be refused by an error that says why, or be harmless: a student that forecasts
as before, labels that are the teacher's, an answer of status 200 or 4xx. Whatever else happens is
printed.
"""

from __future__ import annotations

import http.client
import io
import json
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import running
from distilts_forecaster import load_teacher
from distilts_forecaster.runtime import load_student
from distilts_forecaster.teachers import FunctionTeacher
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import DiskStore

__all__ = ["fuzz_all"]

#: Seconds for what has no fixed number of attempts.
_SECONDS = 30.0

_CONTEXT = np.sin(np.arange(512.0))


def fuzz_all(folder: Path) -> None:
    """Try everything on the students in the subfolders of a folder."""
    rng = np.random.default_rng(int(time.time()))
    students = sorted(path for path in folder.iterdir() if path.is_dir())
    files = {
        path.name: {f: (path / f).read_bytes() for f in ("config.json", "model.safetensors")}
        for path in students
    }
    target = folder / "target"
    target.mkdir()
    for name, content in files.items():
        expected = load_student(folder / name).predict(_CONTEXT)
        for file in content:
            flips = partial(flip_a_bit, target, content, file, expected, rng)
            report(f"bit flips in {file} of {name}", flips, count=2000)
    all_files = list(files.values())
    report("headers of weights", lambda: other_header(target, all_files, rng))
    report("students, several bytes", lambda: damaged_student(target, all_files, rng))
    report("tables", table_reader(folder / "table", rng))
    report("label caches", cache_reader(folder / "cache", rng), count=300)
    report("horizons", horizon_asker(folder / students[0].name, rng), count=3000)
    with running(
        ["-m", "distilts_forecaster.cli.main", "serve", str(students[0]), "--port", "0"]
    ) as (port, _):
        report("requests", lambda: send_damaged(port, rng))


def report(what: str, attempt: Callable[[], str], count: int = 10**9) -> None:
    """Try again and again, and print how often what came of it."""
    outcomes: Counter[str] = Counter()
    stop = time.monotonic() + (_SECONDS if count == 10**9 else 600)
    slowest = 0.0
    while time.monotonic() < stop and outcomes.total() < count:
        start = time.perf_counter()
        try:
            outcome = attempt()
        except (ValueError, TypeError):
            outcome = "refused"
        except BaseException as error:  # a panic of safetensors is no Exception
            outcome = "CRASHED"
            print(f"  {type(error).__name__}: {error}")
        slowest = max(slowest, time.perf_counter() - start)
        outcomes[outcome] += 1
    told = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(outcomes.items()))
    print(f"{what:44s}{told}; slowest {1e3 * slowest:.0f} ms", flush=True)


def write_all(target: Path, files: dict[str, bytes]) -> None:
    """Write a student's files."""
    for file, content in files.items():
        (target / file).write_bytes(content)


def flip_a_bit(
    target: Path, files: dict[str, bytes], file: str, expected: np.ndarray, rng: np.random.Generator
) -> str:
    """Load a student with one bit changed."""
    changed = bytearray(files[file])
    changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    write_all(target, {**files, file: bytes(changed)})
    same = np.array_equal(load_student(target).predict(_CONTEXT), expected)
    return "forecast as before" if same else "FORECAST OTHERWISE"


def damaged_student(
    target: Path, all_files: list[dict[str, bytes]], rng: np.random.Generator
) -> str:
    """Load a student with several bytes changed."""
    files = dict(all_files[rng.integers(len(all_files))])
    which = list(files)[rng.integers(2)]
    files[which] = damage(files[which], rng)
    write_all(target, files)
    load_student(target).predict(np.arange(16.0))
    return "loaded"


def other_header(target: Path, all_files: list[dict[str, bytes]], rng: np.random.Generator) -> str:
    """Load weights whose header says something else."""
    files = dict(all_files[rng.integers(len(all_files))])
    content = files["model.safetensors"]
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([n for n in header if n != "__metadata__"])
    number: Any = rng.choice([0, 1, 7, 2**31, 2**53, 2**63, -1])
    entry = header[name]
    kind = rng.integers(6)
    if kind == 0:
        entry["shape"] = [int(number), *entry["shape"][1:]]
    elif kind == 1:
        entry["data_offsets"] = [entry["data_offsets"][0], int(number)]
    elif kind == 2:
        entry["dtype"] = str(rng.choice(["F16", "F64", "I8", "BOOL", "U64", "X"]))
    elif kind == 3:
        header |= {f"{name}.{i}": {**entry, "shape": [0], "data_offsets": [0, 0]} for i in range(9)}
    elif kind == 4:
        header[f"x{number}"] = header.pop(name)
    else:
        header["__metadata__"] = {"weights_id": str(number)}
    if header == json.loads(content[8 : 8 + size]):
        return "unchanged"
    told = json.dumps(header).encode()
    files["model.safetensors"] = struct.pack("<Q", len(told)) + told + content[8 + size :]
    if rng.random() < 0.2:
        files["model.safetensors"] += bytes(int(rng.integers(1, 2**22)))
    write_all(target, files)
    load_student(target)
    return "LOADED"


def table_reader(path: Path, rng: np.random.Generator) -> Callable[[], str]:
    """Return what reads a damaged table."""
    import pandas as pd

    from distilts_forecaster.tables.read import read_table

    frame = b"unique_id,ds,y\n" + b"".join(
        b"%s,2024-01-%02d,%.2f\n" % (name, day, day / 3)
        for name in (b"a", b"b")
        for day in range(1, 29)
    )
    buffer = io.BytesIO()
    pd.read_csv(io.BytesIO(frame), parse_dates=["ds"]).to_parquet(buffer)
    tables = [frame, buffer.getvalue(), frame.replace(b",", b";")]

    def read_damaged() -> str:
        path.write_bytes(damage(tables[rng.integers(len(tables))], rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_table(str(path))
        return "read"

    return read_damaged


def cache_reader(folder: Path, rng: np.random.Generator) -> Callable[[], str]:
    """Return what labels windows through a damaged cache."""

    def last(contexts: np.ndarray, horizon: int) -> np.ndarray:
        return contexts[:, -horizon:]

    teacher = FunctionTeacher(last, name="last", revision="1")
    contexts = rng.normal(size=(300, 64, 1)).astype(np.float32)
    with closing(DiskStore(folder)) as store:
        Labeller(teacher, store, 24).label(contexts)
    whole = (folder / "labels.sqlite").read_bytes()

    def label_damaged() -> str:
        for path in folder.glob("labels*"):
            path.unlink()
        (folder / "labels.sqlite").write_bytes(damage(whole, rng, whole_file=0.9))
        with warnings.catch_warnings(), closing(DiskStore(folder)) as store:
            warnings.simplefilter("ignore")
            labeller = Labeller(teacher, store, 24)
            right = np.array_equal(labeller.label(contexts)[..., 0], contexts[:, -24:])
        kept = "some" if labeller.n_from_cache else "no"
        return f"right, {kept} labels kept" if right else "WRONG LABELS"

    return label_damaged


def horizon_asker(folder: Path, rng: np.random.Generator) -> Callable[[], str]:
    """Return what asks students and teachers for a horizon of some kind."""
    student, teacher = load_student(folder), load_teacher("bundled")
    contexts = _CONTEXT[None, :, None].astype(np.float32)
    asked = [
        partial(student.predict, _CONTEXT),
        lambda horizon: teacher.forecast(contexts, horizon, (0.5,)).quantiles[0],
    ]
    odd = [np.inf, -np.inf, np.nan, 0, -1, True, False, 2.0, 96.5, "3", b"3", [3], (), {}]
    odd += [np.float32(3), np.array([3]), np.datetime64("2024"), 10**30, -(10**30), 1j]
    right = [1, 96, np.int8(7), np.int64(200), np.uint16(500), np.array(3)]

    def ask() -> str:
        which = int(rng.integers(len(odd) + len(right)))
        horizon: Any = (odd + right)[which]
        if horizon == 10**30:
            horizon = 0  # of any size, but there is no time for it
        made = asked[rng.integers(2)](horizon)
        return "forecast" if len(made) == int(horizon) else "OF ANOTHER LENGTH"

    return ask


def send_damaged(port: int, rng: np.random.Generator) -> str:
    """Send a request with several bytes changed."""
    body = {"context": rng.normal(size=20).round(3).tolist(), "horizon": 3}
    if rng.random() < 0.5:
        body |= {"context": [[[1.0], [None]], [[3.0], [2.0]]], "quantile_levels": [0.1, 0.9]}
    content = damage(json.dumps(body).encode(), rng)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/predict", content)
        response = connection.getresponse()
        answer = response.read()
    json.loads(answer, parse_constant=_no_constant)
    is_fine = response.status == 200 or 400 <= response.status < 500
    return f"{'' if is_fine else 'STATUS '}{response.status}"


def _no_constant(text: str) -> None:
    """Raise what no attempt may: NaN and infinity are no JSON."""
    raise RuntimeError(f"{text} in an answer")


def damage(content: bytes, rng: np.random.Generator, whole_file: float = 0.2) -> bytes:
    """Change, cut, repeat or insert bytes at a few places."""
    changed = bytearray(content)
    head = min(len(changed), 3000)  # where most of the meaning is
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(max(1, len(changed)) if rng.random() < whole_file else head))
        kind = rng.integers(5)
        if kind == 0 and changed:
            place = min(place, len(changed) - 1)
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del changed[place : place + int(rng.integers(1, 40))]
        elif kind == 3:
            changed[place:place] = changed[place : place + int(rng.integers(1, 200))]
        else:
            number = rng.choice([b"-1", b"0", b"1e999", b"99999999999999999999", b"null", b"NaN"])
            changed[place : place + len(number)] = number
    return bytes(changed)
