"""The command ``distilts``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

_PICTURES = (".png", ".pdf", ".svg", ".jpg")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        Exit status: 0, or 2 if the arguments or the installation are at fault.
    """
    parser = argparse.ArgumentParser(prog="distilts", description="Distil forecasters.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="compare teacher, student and seasonal naive on a real series",
        description="Fit the default forecaster on real series, print a table and save a picture.",
    )
    demo.add_argument("--teacher", default="bundled", help="name or directory (default: bundled)")
    demo.add_argument(
        "--output", type=Path, default=Path("distilts_demo.png"), help="where to save the picture"
    )
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    try:
        return _demo(args.teacher, args.output, args.quiet)
    except (ImportError, ValueError) as error:
        print(f"distilts: {error}", file=sys.stderr)
        return 2


def _demo(teacher: str, output: Path, quiet: bool) -> int:
    """Run ``distilts demo``."""
    try:
        from distilts_forecaster.demo import compare, demo_series, format_table, plot
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the demo needs {error.name}: pip install "distilts-forecaster[darts]"'
        ) from error
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} does not exist")
    if output.is_dir() or output.suffix.lower() not in _PICTURES:
        raise ValueError(f"--output {output}: name a file that ends in {', '.join(_PICTURES)}")
    results = []
    for data in demo_series():
        rows = compare(data, teacher, verbose=False if quiet else None)
        results.append((data, rows))
        n_test = len(data.series) - data.test_start
        print(
            f"\n{data.name}: {data.test_start} points to fit on, {n_test} held out, "
            f"{data.series.width} component(s), 512 -> 96 steps"
        )
        print(format_table(rows), flush=True)
    plot(results, output)
    print(
        "\nMASE: error relative to repeating the last period (below 1 is better). "
        "MSE: standardised.\nThe teacher never saw these series; the students never see the "
        f"held-out end.\nPicture: {output}"
    )
    return 0
