"""Examples of adapters run where what they adapt is installed."""

from importlib.util import find_spec

_NEEDED = {
    "sktime": ("panels.py", "sktime.py", "teachers/sktime.py"),
    "statsforecast": ("teachers/statsforecast.py",),
}

collect_ignore = [
    f"distilts_forecaster/{file}"
    for library, files in _NEEDED.items()
    if find_spec(library) is None
    for file in files
]
