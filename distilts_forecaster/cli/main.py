"""The command ``distilts``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilts_forecaster import __version__
from distilts_forecaster.runtime.checks import extra_for

__all__ = ["main"]

_PICTURES = (".png", ".pdf", ".svg", ".jpg")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with ``argv``, by default the process's arguments.

    Returns the exit status: 0, 2 if the arguments, the data or the installation are at fault, 130
    if interrupted, 70 if this program is at fault.
    """
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return int(_RUN[args.command](args))
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ImportError, MemoryError, ValueError, OSError) as error:
        if args.debug:
            raise
        text = str(error) or type(error).__name__
        print(f"distilts: {text}", file=sys.stderr)
        return 2
    except Exception as error:
        if args.debug:
            raise
        print(
            f"distilts: {type(error).__name__}: {error}\nThis is a fault of distilts, not yours. "
            "Run the command again with --debug to see where it happened, and report it.",
            file=sys.stderr,
        )
        return 70


def _show_warning(message: Any, category: Any, *rest: Any, **more: Any) -> None:
    """Print a warning's message alone, without the line of code."""
    if issubclass(category, UserWarning):
        print(f"distilts: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="distilts", description="Distil forecasters, and use them."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_debug(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_fit(commands)
    predict = _add_command(commands, "predict", "forecast what follows the series of a table")
    predict.add_argument("student", help="directory, or name on the hub")
    _add_table(predict)
    predict.add_argument("--horizon", type=_positive, help="steps (default: the student's own)")
    predict.add_argument("--quantiles", nargs="+", type=float, help="levels, such as 0.1 0.9")
    predict.add_argument("--out", type=Path, help=".csv, .parquet, .json (default: printed)")
    report = _add_command(commands, "report", "measure a student on new data, beside naive ones")
    report.add_argument("student", help="directory, or name on the hub")
    _add_table(report)
    report.add_argument("--horizon", type=_positive, help="steps (default: the student's own)")
    report.add_argument("--season", type=_positive, help="steps (default: what fit found)")
    report.add_argument("--windows", type=_positive, default=1000, help="at most (default: 1000)")
    report.add_argument("--teacher", help="name or directory, to compare with")
    report.add_argument("--plot", type=Path, help="where to save a picture")
    export = _add_command(commands, "export", "write a student as an ONNX graph")
    export.add_argument("student", help="directory, or name on the hub")
    export.add_argument(
        "--onnx", type=Path, nargs="?", help="file (default: model.onnx beside the student)"
    )
    export.add_argument(
        "--precision", choices=["float32", "float16", "int8"], default="float32", help="of weights"
    )
    export.add_argument("--quantiles", nargs="+", type=float, help="levels (default: all known)")
    bench = _add_command(commands, "bench", "time a student")
    bench.add_argument("student", help="directory, or name on the hub")
    bench.add_argument("--batch", nargs="+", type=_positive, default=[1, 1024], help="windows")
    serve = commands.add_parser(
        "serve",
        help="answer requests over HTTP",
        description="Serve a student over HTTP until the process is told to stop.",
    )
    serve.add_argument("student", help="directory, or name on the hub")
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0 is a free one")
    for name, value, what in (
        ("max-bytes", 2**20, "of a request"),
        ("max-windows", 1024, "in a request"),
        ("max-horizon", 1000, "steps"),
        ("max-connections", 256, "at once"),
    ):
        serve.add_argument(
            f"--{name}", type=_positive, default=value, help=f"{what} (default: {value:,})"
        )
    serve.add_argument("--timeout", type=float, default=10.0, help="seconds for a request to come")
    _add_debug(serve, default=argparse.SUPPRESS)
    cache = _add_command(commands, "cache", "show, empty or bound the teachers' kept labels")
    cache.add_argument("action", choices=["info", "clear", "limit"])
    cache.add_argument("size", nargs="?", help="of limit: bytes, or with a unit, such as 500MB")
    cache.add_argument("--dir", type=Path, help="cache_dir of the fits (default: the user's own)")
    _add_demo(commands)
    _add_ablate(commands)
    return parser


def _add_command(commands: Any, name: str, help: str) -> argparse.ArgumentParser:
    """Add a command whose result can be printed as JSON."""
    command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    _add_debug(command, default=argparse.SUPPRESS)
    return command


def _add_debug(command: argparse.ArgumentParser, default: Any = False) -> None:
    """Add an argument that may stand before the command or after it."""
    command.add_argument(
        "--debug", action="store_true", default=default, help="show where an error happened"
    )


def _positive(text: str) -> int:
    """Return a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _number_or_auto(text: str) -> float | str:
    """Return a number, or the text itself, such as "auto"."""
    try:
        return float(text)
    except ValueError:
        return text


def _add_table(command: argparse.ArgumentParser) -> None:
    """Add the arguments that say how to read a table."""
    command.add_argument("data", help="CSV or Parquet, long or wide; - is standard input")
    command.add_argument("--id", help="column that says which series (long tables)")
    command.add_argument("--time", help="column that says when")
    command.add_argument("--target", nargs="+", help="columns with values")
    command.add_argument("--freq", help="frequency (h, D, MS ...; default: found)")


def _add_fit(commands: Any) -> None:
    """Add ``distilts fit``."""
    fit = _add_command(commands, "fit", "fit a student to a table and save it")
    _add_table(fit)
    fit.add_argument("--out", type=Path, required=True, help="directory to save the student in")
    fit.add_argument("--horizon", type=_positive, help="steps ahead (default: 96, or fewer)")
    fit.add_argument("--lookback", type=_positive, help="steps seen (default: 512, or fewer)")
    fit.add_argument("--teacher", default="bundled", help="name or directory (default: bundled)")
    fit.add_argument(
        "--student", default="linear", choices=["linear", "dlinear", "mlp", "itransformer"]
    )
    fit.add_argument(
        "--alpha", type=_number_or_auto, default="auto", help="weight of the teacher; 0 is none"
    )
    fit.add_argument("--tau", type=_number_or_auto, default=1.0, help="slope of horizon weights")
    fit.add_argument("--quantiles", nargs="+", type=float, help="levels, 0.5 among them")
    fit.add_argument("--nonnegative", action="store_true", help="no forecast below zero")
    fit.add_argument(
        "--label-budget",
        type=_positive,
        help="most windows to ask the teacher for (default: as help)",
    )
    fit.add_argument("--time-limit", type=float, help="seconds to spend on the teacher's labels")
    fit.add_argument("--seed", type=int, help="of students trained by gradient")
    fit.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_demo(commands: Any) -> None:
    """Add ``distilts demo``."""
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


def _add_ablate(commands: Any) -> None:
    """Add ``distilts ablate``."""
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


def _print(result: dict[str, Any], text: str, json_wanted: bool) -> int:
    """Print a result for people, or for programs."""
    if json_wanted:
        from distilts_forecaster.runtime.info import as_json

        text = json.dumps(as_json(result), allow_nan=False)
    print(text)
    return 0


def _fit(args: argparse.Namespace) -> int:
    """Run ``distilts fit``."""
    from distilts_forecaster.cli.commands import fit

    return _print(*fit(args), args.json)


def _predict(args: argparse.Namespace) -> int:
    """Run ``distilts predict``."""
    from distilts_forecaster.cli.commands import predict, write_frame

    if args.out is not None and not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out}: the folder {args.out.parent} does not exist")
    write_frame(predict(args), args.out, args.json)
    return 0


def _report(args: argparse.Namespace) -> int:
    """Run ``distilts report``."""
    from distilts_forecaster.cli.commands import report

    if args.plot is not None:
        _check_output(args.plot, "--plot")
    return _print(*report(args), args.json)


def _export(args: argparse.Namespace) -> int:
    """Run ``distilts export``."""
    from distilts_forecaster.cli.commands import export

    return _print(*export(args), args.json)


def _bench(args: argparse.Namespace) -> int:
    """Run ``distilts bench``."""
    from distilts_forecaster.cli.commands import bench

    return _print(*bench(args), args.json)


def _serve(args: argparse.Namespace) -> int:
    """Run ``distilts serve``."""
    from distilts_forecaster.cli.serve import serve

    return serve(args)


def _cache(args: argparse.Namespace) -> int:
    """Run ``distilts cache``."""
    from distilts_forecaster.cli.cache import manage

    if (args.size is None) == (args.action == "limit"):
        raise ValueError("give a size with limit alone. Example: distilts cache limit 500MB")
    return _print(*manage(args), args.json)


def _demo(args: argparse.Namespace) -> int:
    """Run ``distilts demo``."""
    teacher, output, quiet = args.teacher, args.output, args.quiet
    with extra_for("the demo", "darts"):
        from distilts_forecaster.cli.demo import compare, demo_series, format_table, plot
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


def _check_output(output: Path, option: str = "--output") -> None:
    """Raise ValueError unless a picture can be saved there."""
    if not output.parent.is_dir():
        raise ValueError(f"{option} {output}: the folder {output.parent} does not exist")
    if output.is_dir() or output.suffix.lower() not in _PICTURES:
        raise ValueError(f"{option} {output}: name a file that ends in {', '.join(_PICTURES)}")


def _ablate(args: argparse.Namespace) -> int:
    """Run ``distilts ablate``."""
    with extra_for("the ablation", "cli,darts-torch"):
        import pandas as pd

        from distilts_forecaster.cli.ablation import ablate, plot, read_spans, summarise
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
                label_budget=args.label_budget or "auto",
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


_RUN = {
    "ablate": _ablate,
    "bench": _bench,
    "cache": _cache,
    "demo": _demo,
    "export": _export,
    "fit": _fit,
    "predict": _predict,
    "report": _report,
    "serve": _serve,
}


if __name__ == "__main__":
    sys.exit(main())
