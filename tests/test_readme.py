import re
from pathlib import Path

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
