"""How many small mistakes the tests notice: ``python -m benchmarks.mutants``.

cosmic-ray (``pip install cosmic-ray``) changes one operator or number at a time in a copy of the
package; a mutant is killed if the tests nearest to the module fail, or do not end. A sample of
each module's mutants is tried, the same for the same seed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Modules whose mistakes would be silent, and the tests nearest to each.
MODULES = {
    "students/objective.py": ["test_objective.py"],
    "distill/plan.py": ["test_plan.py", "test_pipeline.py"],
    "distill/accumulate.py": ["test_accumulate.py", "test_pipeline.py"],
    "students/sums.py": ["test_sums.py"],
    "distill/calibration.py": ["test_calibration.py"],
    "teachers/labels.py": ["test_labels.py"],
}

#: Annotations hold `X | None`, whose mutants change nothing.
CONFIG = """[cosmic-ray]
module-path = "{module}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""


def sample(session: Path, count: int, seed: int) -> int:
    """Leave at most ``count`` mutants of a session to be tried; return how many there were."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(session, WorkDB.Mode.open) as database:
        todo = sorted(item.job_id for item in database.pending_work_items)
        places = {item.job_id: item for item in database.pending_work_items}
        todo = sorted(todo, key=lambda job: str(places[job].mutations))
        chosen = set(random.Random(seed).sample(todo, min(count, len(todo))))
        for job in set(todo) - chosen:
            database.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    return len(todo)


def survivors(session: Path) -> tuple[Counter, list[str]]:
    """Return how the mutants of a session ended, and where those are that lived."""
    from cosmic_ray.work_db import WorkDB, use_db

    ends: Counter = Counter()
    alive = []
    with use_db(session, WorkDB.Mode.open) as database:
        items = {item.job_id: item for item in database.work_items}
        for job, result in database.results:
            outcome = getattr(result.test_outcome, "value", None)
            if outcome is None:
                continue
            ends[outcome] += 1
            if outcome == "survived":
                change = items[job].mutations[0]
                line, name = change.start_pos[0], change.operator_name.removeprefix("core/")
                alive.append(f"line {line}: {name} ({change.occurrence})")
    return ends, sorted(alive, key=lambda text: int(text.split()[1].rstrip(":")))


def try_module(module: str, tests: list[str], count: int, seed: int, timeout: float) -> None:
    """Mutate one module in a copy of the repository, and print what was killed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        path, session = copy / "distilts_forecaster" / module, copy / "session.sqlite"
        config = copy / "mutants.toml"
        chosen = " ".join(f"tests/{name}" for name in tests if (copy / "tests" / name).is_file())
        config.write_text(
            CONFIG.format(module=path, timeout=timeout, python=sys.executable, tests=chosen)
        )

        def run(*command: str) -> None:
            subprocess.run([sys.executable, "-m", *command], cwd=copy, check=True)

        run("cosmic_ray.cli", "baseline", str(config))  # the tests pass without a mutant
        run("cosmic_ray.cli", "init", str(config), str(session))
        run("cosmic_ray.tools.filters.operators_filter", str(session), str(config))
        total = sample(session, count, seed)
        run("cosmic_ray.cli", "exec", str(config), str(session))
        ends, alive = survivors(session)
    tried, killed = sum(ends.values()), ends["killed"]
    print(
        f"{module}: {killed} of {tried} killed ({total} possible)", *alive, sep="\n  ", flush=True
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the tests of one")
    parser.add_argument(
        "--module", nargs="+", action="append", help="a module and its tests, instead of all"
    )
    args = parser.parse_args()
    chosen = {one[0]: one[1:] for one in args.module} if args.module else MODULES
    for module, tests in chosen.items():
        try_module(module, tests, args.count, args.seed, args.timeout)


if __name__ == "__main__":
    main()
