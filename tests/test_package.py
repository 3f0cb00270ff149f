import subprocess
import sys

import pytest

import distilts_forecaster


def imported_by(code):
    """Return the top-level modules a fresh interpreter holds after running ``code``."""
    show = "; import sys; print(*{m.partition('.')[0] for m in sys.modules})"
    out = subprocess.run(
        [sys.executable, "-c", code + show], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


HEAVY = {"torch", "darts", "sktime", "pandas", "scipy", "sklearn", "chronos", "matplotlib"}


def test_importing_the_package_imports_nothing_heavy():
    assert not imported_by("import distilts_forecaster") & (HEAVY | {"numpy"})


def test_the_runtime_needs_numpy_only():
    assert not imported_by("from distilts_forecaster import load_student") & HEAVY


def test_the_bundled_teacher_needs_no_framework():
    code = "from distilts_forecaster import load_teacher; load_teacher('bundled').info"
    assert not imported_by(code) & HEAVY


def test_the_default_forecaster_fits_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from darts import TimeSeries\n"
        "from distilts_forecaster import DistilledForecaster\n"
        "series = TimeSeries.from_values(np.sin(np.arange(200.0)))\n"
        "DistilledForecaster(24, 6, cache_dir=False).fit(series).predict(12)\n"
        "print('fitted')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "fitted", out.stderr


def test_what_a_dependency_lacks_is_told(monkeypatch):
    """As where Darts uses a part of NumPy that nobody has imported."""
    monkeypatch.setitem(distilts_forecaster._PUBLIC, "broken", ("runtime", "fit"))
    with pytest.raises(ImportError, match=r"broken cannot be imported: .* has no attribute"):
        distilts_forecaster.broken  # noqa: B018


def test_a_missing_extra_is_named():
    code = (
        "import sys; sys.modules['darts'] = None\n"
        "from distilts_forecaster import DistilledForecaster"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "distilts-forecaster[darts]"' in out.stderr


@pytest.mark.parametrize(
    ("code", "missing", "extra"),
    [
        ("import distilts_forecaster.sktime", "sktime", "sktime"),
        ("import distilts_forecaster.sklearn", "sklearn", "sklearn"),
        ("import distilts_forecaster.sklearn", "scipy", "sklearn"),
        ("from distilts_forecaster import DartsTeacher", "darts", "darts"),
        ("from distilts_forecaster import load_teacher\n"
         "load_teacher('google/timesfm-2.5-200m-pytorch')", "darts", "darts-torch"),
        ("import pandas; from distilts_forecaster import from_long\n"
         "from_long(pandas.DataFrame({'unique_id': [1, 1], 'ds': [1, 2], 'y': [0., 1.]}))",
         "darts", "darts"),
        ("from distilts_forecaster import from_long", "pandas", "darts"),
        (
            "from distilts_forecaster import LinearForecaster, export_onnx; import numpy\n"
            "export_onnx(LinearForecaster(numpy.ones((1, 4, 2))), 'x')",
            "onnx",
            "onnx",
        ),
        ("from distilts_forecaster.runtime import load_student; load_student('a/b')",
         "huggingface_hub", "hub"),
        ("from distilts_forecaster.cli.main import main; main(['--debug', 'demo'])",
         "darts", "darts"),
    ],
)  # fmt: skip
def test_every_missing_extra_is_named_with_its_command(code, missing, extra, tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{missing!r}] = None\n{code}"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    last = out.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f'needs {missing}: pip install "distilts-forecaster[{extra}]"' in last


def test_a_missing_chronos_is_named():
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from distilts_forecaster import load_teacher\n"
        "load_teacher('amazon/chronos-2')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "distilts-forecaster[chronos]"' in out.stderr


def test_all_public_names_exist():
    for name in distilts_forecaster.__all__:
        assert getattr(distilts_forecaster, name).__name__ == name
        assert name in dir(distilts_forecaster)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = distilts_forecaster.nothing
