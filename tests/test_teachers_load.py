import json
from pathlib import Path

import pytest
from conftest import CountingTeacher

from distilts_forecaster.teachers import FunctionTeacher, Teacher, as_specification, load_teacher


def test_names_stay_names_until_they_are_loaded():
    assert as_specification("bundled") == "bundled"
    assert as_specification("amazon/chronos-2") == "amazon/chronos-2"
    assert isinstance(load_teacher("bundled"), Teacher)


def test_teachers_and_functions_are_taken(tmp_path):
    teacher = CountingTeacher(tmp_path / "log")
    assert load_teacher(teacher) is teacher
    assert isinstance(load_teacher(lambda contexts, horizon: contexts), FunctionTeacher)


@pytest.mark.parametrize(
    "name", ["unknown", "", "a/b/c", "./missing", "/no/such/place", "two words/x"]
)
def test_unknown_names_are_told_what_is_known(name):
    with pytest.raises(ValueError, match='(?s)Unknown teacher.*"bundled".*amazon/chronos-2'):
        load_teacher(name)


@pytest.mark.parametrize("nothing", [None, 3, {"bundled"}, FunctionTeacher])
def test_what_cannot_be_a_teacher_is_refused(nothing):
    with pytest.raises(TypeError, match="teacher must be"):
        load_teacher(nothing)


@pytest.mark.parametrize("content", [None, "not json", "[]", json.dumps({"model_type": "bert"})])
def test_a_directory_that_is_not_a_teacher_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    for path in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match="is not a teacher: it needs a config.json"):
            load_teacher(path)


def test_a_file_is_refused():
    with pytest.raises(ValueError, match="is a file; pass the directory"):
        load_teacher(Path(__file__))


def test_a_hub_name_that_cannot_be_fetched_says_what_to_do(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(
        ValueError, match='neither a directory here nor to be had.*teacher="bundled"'
    ):
        load_teacher("amazon/chronos-2")


def test_a_hub_name_becomes_its_snapshot(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(
        json.dumps({"chronos_pipeline_class": "ChronosBoltPipeline", "chronos_config": {}})
    )
    monkeypatch.setattr(hub, "snapshot_download", lambda name, allow_patterns: str(snapshot))
    info = load_teacher("someone/some-bolt").info
    assert (info.name, info.revision) == ("someone/some-bolt", "0123abc")
