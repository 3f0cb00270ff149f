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
    ablate = commands.add_parser(
        "ablate",
        help="measure what each part of the objective is worth on your data",
        description="Fit a student without a teacher, with plain distillation (baseline), with "
        "horizon weights (+HW), alignment (+FTA) and both (full), from several seeds; print the "
        "test errors and save a picture.",
    )
    ablate.add_argument("data", nargs="+", type=Path, help="CSV files, a column per component")
    ablate.add_argument("--horizons", nargs="+", type=int, default=[96], help="default: 96")
    ablate.add_argument("--lookback", type=int, default=512, help="default: 512")
    ablate.add_argument("--teacher", default="bundled", help="name or directory")
    ablate.add_argument(
        "--student", default="itransformer", choices=["itransformer", "mlp"], help="which network"
    )
    ablate.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    for name, value, what in (
        ("alpha", 0.5, "weight of the teacher"),
        ("tau", 1.0, "of the horizon weights"),
        ("beta", 0.3, "weight of the alignment"),
    ):
        ablate.add_argument(f"--{name}", type=float, default=value, help=f"{what} ({value})")
    ablate.add_argument(
        "--split", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"), help="points or shares"
    )
    ablate.add_argument("--label-budget", type=int, help="most windows to ask the teacher for")
    ablate.add_argument(
        "--table", type=Path, help="CSV file of all runs; those in it are not made again"
    )
    ablate.add_argument("--output", type=Path, default=Path("distilts_ablation.png"))
    ablate.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    try:
        if args.command == "ablate":
            return _ablate(args)
        return _demo(args.teacher, args.output, args.quiet)
    except (ImportError, TypeError, ValueError, OSError) as error:
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
    _check_output(output)
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


def _check_output(output: Path) -> None:
    """Raise ValueError unless a picture can be saved there."""
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} does not exist")
    if output.is_dir() or output.suffix.lower() not in _PICTURES:
        raise ValueError(f"--output {output}: name a file that ends in {', '.join(_PICTURES)}")


def _ablate(args: argparse.Namespace) -> int:
    """Run ``distilts ablate``."""
    try:
        import pandas as pd

        from distilts_forecaster.ablation import ablate, plot, read_spans, summarise
    except ModuleNotFoundError as error:
        raise ImportError(
            f'the ablation needs {error.name}: pip install "distilts-forecaster[torch]"'
        ) from error
    _check_output(args.output)
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {args.seeds}")
    names = [path.stem for path in args.data]
    if len(set(names)) < len(names):
        raise ValueError(f"files of the same name cannot be told apart in the table: {names}")
    spans = [read_spans(path, args.split) for path in args.data]
    runs = pd.concat(
        [
            ablate(
                data,
                horizon,
                args.lookback,
                args.student,
                args.teacher,
                range(args.seeds),
                args.alpha,
                args.tau,
                args.beta,
                table=args.table,
                verbose=False if args.quiet else None,
                label_budget=args.label_budget,
            )
            for data in spans
            for horizon in args.horizons
        ]
    )
    print(summarise(runs).to_string(index=False))
    plot(runs, args.output)
    print(
        "\nTest MSE, standardised, mean and standard deviation over seeds. baseline: distillation "
        f"with uniform weights.\nPicture: {args.output}"
    )
    return 0
