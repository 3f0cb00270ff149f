import multiprocessing
import os
import re
import sqlite3
import warnings
import zlib
from contextlib import closing

import numpy as np
import pytest
from conftest import CountingTeacher

from distilts_forecaster.teachers import FunctionTeacher, TeacherForecast, TeacherInfo
from distilts_forecaster.teachers.labels import Labeller
from distilts_forecaster.teachers.stores import DiskStore, MemoryStore, open_store

H = 4


def windows(n, seed=0, components=1):
    return np.random.default_rng(seed).normal(size=(n, 12, components)).astype(np.float32)


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else DiskStore(tmp_path / "store")
    yield made
    made.close()


def test_a_window_is_labelled_once(store, teacher):
    contexts = windows(10)
    first = Labeller(teacher, store, H)
    labels = first.label(contexts)
    assert (first.n_labelled, first.n_from_cache, teacher.n_asked) == (10, 0, 10)
    second = Labeller(teacher, store, H)
    np.testing.assert_array_equal(
        second.label(np.concatenate([contexts, windows(2, 1)]))[:10], labels
    )
    assert (second.n_labelled, second.n_from_cache, teacher.n_asked) == (2, 10, 12)


def test_the_same_window_twice_in_a_batch_is_one_label(store, teacher):
    contexts = np.repeat(windows(1), 5, axis=0)
    labels = Labeller(teacher, store, H).label(contexts)
    assert teacher.n_asked == 1
    np.testing.assert_array_equal(labels, np.repeat(labels[:1], 5, axis=0))


def test_cached_labels_are_those_of_the_teacher(store, teacher):
    contexts = windows(7, components=2)
    expected = teacher.forecast(contexts, H, (0.5,)).quantiles
    for _ in range(2):
        np.testing.assert_array_equal(Labeller(teacher, store, H).label(contexts), expected)


@pytest.mark.parametrize(
    "other",
    [
        {"horizon": H + 1},
        {"quantile_levels": (0.1, 0.5)},
        {"teacher": {"revision": "2"}},
        {"teacher": {"name": "else"}},
    ],
)
def test_whatever_a_label_depends_on_is_in_its_key(store, teacher, tmp_path, other):
    contexts = windows(3)
    Labeller(teacher, store, H).label(contexts)
    if "teacher" in other:
        other = {"teacher": CountingTeacher(tmp_path / "other.txt", **other["teacher"])}
    arguments = {"teacher": teacher, "store": store, "horizon": H} | other
    labeller = Labeller(**arguments)
    labeller.label(contexts)
    assert labeller.n_labelled == 3


def test_missing_values_are_the_same_whatever_their_bits(store, teacher):
    contexts = windows(1)
    contexts[0, :3] = np.nan
    other_bits = contexts.copy()
    other_bits.view(np.uint32)[0, :3] ^= 0x80000001
    assert Labeller(teacher, store, H).keys(contexts) == Labeller(teacher, store, H).keys(
        other_bits
    )


def test_shape_is_part_of_the_key(store, teacher):
    labeller = Labeller(teacher, store, H)
    assert labeller.keys(np.zeros((1, 6, 2), np.float32)) != labeller.keys(
        np.zeros((1, 12, 1), np.float32)
    )


class Answering:
    """A teacher that answers with a fixed array."""

    def __init__(self, answer):
        self.answer = answer
        self.info = TeacherInfo("answering", "1")

    def forecast(self, contexts, horizon, quantile_levels):
        return TeacherForecast(self.answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, H, 1, 2)), r"returned forecasts of shape \(2, 4, 1, 2\), expected"),
        (np.full((2, H, 1, 1), np.nan), "8 forecasts that are NaN"),
        (np.full((2, H, 1, 1), np.inf), "NaN or infinite"),
    ],
)
def test_bad_labels_are_refused_and_not_kept(store, answer, message):
    labeller = Labeller(Answering(answer), store, H)
    with pytest.raises(ValueError, match=message):
        labeller.label(windows(2))
    assert store.get(labeller.keys(windows(2))) == {}


def test_an_interruption_keeps_the_labels_made_so_far(tmp_path, teacher, monkeypatch):
    monkeypatch.setattr("distilts_forecaster.teachers.labels.ROWS_PER_COMMIT", 4)
    forecast = teacher.forecast

    def interrupted(contexts, horizon, quantile_levels):
        if teacher.n_asked >= 8:
            raise KeyboardInterrupt
        return forecast(contexts, horizon, quantile_levels)

    store = DiskStore(tmp_path / "store")
    teacher.forecast = interrupted
    with pytest.raises(KeyboardInterrupt):
        Labeller(teacher, store, H).label(windows(20))
    teacher.forecast = forecast
    again = Labeller(teacher, DiskStore(tmp_path / "store"), H)
    again.label(windows(20))
    assert (again.n_from_cache, again.n_labelled) == (8, 12)


def rewrite(path, change):
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE labels SET value = substr(value, 1, 7)",  # torn
        "UPDATE labels SET value = zeroblob(length(value))",  # overwritten
        "UPDATE labels SET checksum = 0",
    ],
)
def test_a_damaged_entry_is_labelled_again(tmp_path, teacher, change):
    store = DiskStore(tmp_path / "store")
    labels = Labeller(teacher, store, H).label(windows(5))
    store.close()
    rewrite(store.path, change)
    again = Labeller(teacher, DiskStore(tmp_path / "store"), H)
    np.testing.assert_array_equal(again.label(windows(5)), labels)
    assert again.n_labelled == 5


def test_an_entry_of_another_size_is_labelled_again(tmp_path, teacher):
    store = DiskStore(tmp_path / "store")
    labeller = Labeller(teacher, store, H)
    foreign = b"not a label of this shape"
    store.put(dict.fromkeys(labeller.keys(windows(3)), foreign))
    labeller.label(windows(3))
    assert labeller.n_labelled == 3
    assert zlib.crc32(foreign)  # the entry itself was whole


def test_an_empty_file_becomes_a_cache(tmp_path, teacher):
    (tmp_path / "labels.sqlite").write_bytes(b"")
    Labeller(teacher, DiskStore(tmp_path), H).label(windows(3))
    assert teacher.n_asked == 3


def database(path, *statements):
    """Write a database that is not the package's."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


FOREIGN = {
    "text": lambda path: path.write_bytes(b"my labels, by hand" * 100),
    "short": lambda path: path.write_bytes(b"x"),
    "another table": lambda path: database(path, "CREATE TABLE labels (something INTEGER)"),
    "another application": lambda path: database(
        path, "PRAGMA application_id=77", "CREATE TABLE pictures (name TEXT)"
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_no_label_cache_is_refused_by_name_and_kept(tmp_path, kind):
    path = tmp_path / "labels.sqlite"
    FOREIGN[kind](path)
    before = path.read_bytes()
    for open_it in (DiskStore, lambda folder: open_store(folder, lasting=True)):
        with pytest.raises(ValueError, match=re.escape(f"{path} is no label cache")):
            open_it(tmp_path)
    assert path.read_bytes() == before


def test_a_cache_of_another_layout_is_left_alone(tmp_path, teacher):
    store = DiskStore(tmp_path)
    Labeller(teacher, store, H).label(windows(3))
    store.close()
    rewrite(store.path, "PRAGMA user_version=7")
    before = store.path.read_bytes()
    other = DiskStore(tmp_path)
    assert other.path != store.path
    assert other.count() == 0
    Labeller(teacher, other, H).label(windows(3))
    other.close()
    assert store.path.read_bytes() == before


def test_a_cache_of_an_earlier_version_is_known_and_left_alone(tmp_path, teacher):
    store = DiskStore(tmp_path)
    store.close()
    for change in ("application_id=0", "user_version=1"):
        rewrite(store.path, f"PRAGMA {change}")
    rewrite(store.path, "DROP TABLE settings")
    assert DiskStore(tmp_path).path.name == "labels-2.sqlite"


def test_labels_of_another_window_are_not_taken_for_its_own(tmp_path, teacher):
    """As where the index of a damaged file names another row."""
    store = DiskStore(tmp_path)
    labels = Labeller(teacher, store, H).label(windows(2))
    with closing(sqlite3.connect(store.path)) as connection, connection:
        (first, value, check), (second, *other) = connection.execute(
            "SELECT key, value, checksum FROM labels"
        ).fetchall()
        change = "UPDATE labels SET value = ?, checksum = ? WHERE key = ?"
        connection.execute(change, (*other, first))
        connection.execute(change, (value, check, second))
    again = Labeller(teacher, store, H)
    np.testing.assert_array_equal(again.label(windows(2)), labels)
    assert again.n_labelled == 2


def use_damaged(folder, teacher, raw, under_way):
    """Damage a cache before or after it is opened, label and empty it; return the labels."""
    path = folder / "labels.sqlite"
    if not under_way:
        path.write_bytes(raw)
    store = DiskStore(folder)
    if under_way:
        path.write_bytes(raw)
    labels = Labeller(teacher, store, H).label(windows(600))
    again = Labeller(teacher, store, H)
    again.label(windows(600))
    assert again.n_labelled == 0
    store.clear()
    store.close()
    return labels


@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize("pages", ["one", "most"])
def test_what_can_be_read_of_a_damaged_cache_is_kept(tmp_path, teacher, pages, under_way):
    store = DiskStore(tmp_path)
    store.set_limit(10**8)
    Labeller(teacher, store, H).label(windows(600))
    store.close()
    raw = np.frombuffer(store.path.read_bytes(), np.uint8).reshape(-1, 4096).copy()
    raw[len(raw) // 2 if pages == "one" else slice(3, None)] = 255
    asked = teacher.n_asked
    with pytest.warns(UserWarning, match="entries could be read"):
        labels = use_damaged(tmp_path, teacher, raw.tobytes(), under_way)
    made = teacher.n_asked - asked
    assert made < 100 if pages == "one" else 500 < made <= 600
    np.testing.assert_array_equal(labels, teacher.forecast(windows(600), H, (0.5,)).quantiles)
    if pages == "one":
        assert DiskStore(tmp_path).max_bytes == 10**8


def test_a_cache_that_cannot_be_written_is_read(tmp_path, teacher):
    """As an unprivileged user sees one of somebody else's; as on a read-only mount."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = tmp_path / "cache"
    store = DiskStore(folder)
    Labeller(teacher, store, H).label(windows(20))
    store.close()
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in folder.parents:
        if path.stat().st_uid == 0 and path != path.parent:
            path.chmod(path.stat().st_mode | 0o055)
    teacher.log.chmod(0o666)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=label_as_nobody, args=(folder, teacher, queue))
    process.start()
    told = queue.get(timeout=60)
    process.join()
    assert told == (20, 5, 5, True)


def label_as_nobody(folder, teacher, queue):
    """Tell how many labels were found and made, how many the second time, and of a warning."""
    os.setgid(65534)
    os.setuid(65534)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store = open_store(folder, lasting=True)
        contexts = np.concatenate([windows(20), windows(5, seed=1)])
        first, second = Labeller(teacher, store, H), Labeller(teacher, store, H)
        first.label(contexts)
        second.label(contexts)
        warned = any("cannot be written" in str(one.message) for one in caught)
        queue.put((first.n_from_cache, first.n_labelled, second.n_from_cache - 20, warned))
    except BaseException as error:
        queue.put(repr(error))


def test_the_journal_is_bounded_while_others_read(tmp_path):
    store = DiskStore(tmp_path)
    store.put(entries(0, 10))
    journal = store.path.with_name(f"{store.path.name}-wal")
    for start in range(0, 60_000, 10_000):
        reader = sqlite3.connect(store.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM labels").fetchone()
        store.put(entries(start, start + 5_000))
        reader.execute("COMMIT")
        reader.close()
        store.put(entries(start + 5_000, start + 10_000))
        assert journal.stat().st_size < 24e6


def test_the_bound_is_the_arguments_or_the_environments_or_the_folders(tmp_path, monkeypatch):
    assert DiskStore(tmp_path).max_bytes == 2 * 2**30
    DiskStore(tmp_path).set_limit(5_000_000)
    assert DiskStore(tmp_path).max_bytes == 5_000_000
    monkeypatch.setenv("DISTILTS_CACHE_BYTES", "1.5 MiB")
    assert DiskStore(tmp_path).max_bytes == 1.5 * 2**20
    assert DiskStore(tmp_path, max_bytes=7).max_bytes == 7
    monkeypatch.setenv("DISTILTS_CACHE_BYTES", "a lot")
    with pytest.raises(ValueError, match="number of bytes"):
        DiskStore(tmp_path)


def test_a_lower_bound_drops_labels_at_once(tmp_path):
    store = DiskStore(tmp_path)
    store.put(entries(0, 2000))
    store.set_limit(500_000)
    assert 100 < store.count() < 600
    assert store.path.stat().st_size < 700_000


def test_labels_that_are_not_finite_are_made_again(tmp_path, teacher):
    store = DiskStore(tmp_path)
    labeller = Labeller(teacher, store, H)
    bad = np.full((H, 1, 1), np.nan, np.float32).tobytes()
    store.put(dict.fromkeys(labeller.keys(windows(3)), bad))
    assert np.isfinite(labeller.label(windows(3))).all()
    assert labeller.n_labelled == 3


def entries(first, last, size=1000):
    return {i.to_bytes(16, "big"): bytes([i % 256]) * size for i in range(first, last)}


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_least_recently_used_go_first_and_the_size_is_bounded(tmp_path, kind):
    bound = 400_000
    store = MemoryStore(bound) if kind == "memory" else DiskStore(tmp_path, bound)
    early = list(entries(0, 50))
    for start in range(0, 2000, 50):
        store.put(entries(start, start + 50))
        assert len(store.get(early)) == 50  # used all the time: stays
    assert len(store.get(list(entries(50, 100)))) == 0
    assert len(store.get(list(entries(1950, 2000)))) == 50
    if kind == "disk":
        store.close()
        assert store.path.stat().st_size < 1.5 * bound


def label_in_process(log, directory, barrier):
    labeller = Labeller(CountingTeacher(log), DiskStore(directory), H)
    barrier.wait()
    labeller.label(windows(600))


def test_processes_that_start_together_label_each_window_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    arguments = (tmp_path / "asked.txt", tmp_path / "store", barrier)
    workers = [context.Process(target=label_in_process, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert CountingTeacher(tmp_path / "asked.txt").n_asked == 600


def test_a_teacher_without_identity_keeps_its_labels_in_the_process(tmp_path):
    lasting = FunctionTeacher(lambda c, h: c[:, :h], name="first values", revision="1")
    passing = FunctionTeacher(lambda c, h: c[:, :h])
    assert passing.info.revision is None
    assert lasting.info.revision == "1"
    assert isinstance(open_store(tmp_path, lasting=False), MemoryStore)
    assert isinstance(open_store(tmp_path, lasting=True), DiskStore)
    assert open_store(False, lasting=True) is open_store(None, lasting=False)


def test_a_cache_that_cannot_be_written_is_said_and_done_without(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="writable cache_dir"):
        store = open_store(tmp_path / "file" / "cache", lasting=True)
    assert isinstance(store, MemoryStore)


def constant(value):
    return FunctionTeacher(lambda contexts, horizon: np.full((len(contexts), horizon, 1), value))


class Nameless:
    """A teacher of the user's own with the default revision."""

    def __init__(self, value):
        self.value = value
        self.info = TeacherInfo("mine")

    def forecast(self, contexts, horizon, quantile_levels):
        return TeacherForecast(np.full((len(contexts), horizon, 1, 1), self.value))


@pytest.mark.parametrize("kind", [constant, Nameless])
def test_teachers_without_identity_are_never_mistaken_for_each_other(store, kind):
    for value in range(200):  # many: ids are used again
        labels = Labeller(kind(float(value)), store, H).label(windows(2))
        np.testing.assert_array_equal(labels, float(value))


def test_bound_methods_are_known_again(store):
    class Model:
        asked = 0

        def forecast(self, contexts, horizon):
            self.asked += len(contexts)
            return contexts[:, :horizon]

    one, other = Model(), Model()
    for _ in range(2):
        for model in (one, other):
            Labeller(FunctionTeacher(model.forecast), store, H).label(windows(5))
    assert (one.asked, other.asked) == (5, 5)


def test_names_and_revisions_cannot_run_into_each_other(store, tmp_path):
    first = CountingTeacher(tmp_path / "a", name="a|b", revision="c")
    second = CountingTeacher(tmp_path / "b", name="a", revision="b|c")
    for teacher in (first, second):
        Labeller(teacher, store, H).label(windows(3))
    assert second.n_asked == 3


def test_a_teacher_may_use_its_array_again(store, monkeypatch):
    monkeypatch.setattr("distilts_forecaster.teachers.labels.ROWS_PER_COMMIT", 4)
    buffer = np.empty((4, H, 1), dtype=np.float32)

    def reusing(contexts, horizon):
        buffer[: len(contexts)] = contexts[:, :horizon]
        return buffer[: len(contexts)]

    labels = Labeller(FunctionTeacher(reusing), store, H).label(windows(10))
    np.testing.assert_array_equal(labels[..., 0], windows(10)[:, :H])


def test_a_store_that_fails_does_not_cost_the_labels(tmp_path, teacher):
    store = DiskStore(tmp_path)
    store._connection.execute("PRAGMA max_page_count=12")  # as a full disk
    with pytest.warns(UserWarning, match="label cache failed"):
        labels = Labeller(teacher, store, H).label(windows(600))
    np.testing.assert_array_equal(labels, teacher.forecast(windows(600), H, (0.5,)).quantiles)


def test_reading_does_not_wait_for_a_writer(tmp_path, teacher):
    store = DiskStore(tmp_path)
    Labeller(teacher, store, H).label(windows(5))
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    again = Labeller(teacher, store, H)
    again.label(windows(5))
    writer.execute("ROLLBACK")
    writer.close()
    assert again.n_from_cache == 5


def test_threads_with_different_teachers_do_not_wait_for_each_other():
    store = MemoryStore()
    with store.lock("one"):
        assert store.lock("two").acquire(blocking=False)
        assert not store.lock("one").acquire(blocking=False)


class StatesTeacher:
    """Hidden states that are the context's own values."""

    def __init__(self, size=4, positions=None, bad=None):
        self.info = TeacherInfo("states", revision="1", hidden="values")
        self.size, self.positions, self.bad, self.asked = size, positions, bad, 0

    def forecast(self, contexts, horizon, quantile_levels):
        raise AssertionError("only hidden states are asked for")

    def hidden_states(self, contexts, steps):
        self.asked += len(contexts)
        states = contexts[:, list(steps)].transpose(0, 2, 1)[..., None]
        states = states * np.arange(1, self.size + 1)
        return states if self.bad is None else self.bad(states)


class TestHidden:
    def contexts(self, n=6, seed=0):
        return np.random.default_rng(seed).normal(size=(n, 8, 2)).astype(np.float32)

    @pytest.mark.parametrize("on_disk", [False, True])
    def test_are_asked_for_once_and_kept_as_float16(self, tmp_path, on_disk):
        store = DiskStore(tmp_path) if on_disk else MemoryStore()
        teacher, contexts = StatesTeacher(), self.contexts()
        first = Labeller(teacher, store, 3).hidden(contexts, [-8, -1], 16)
        again = Labeller(teacher, store, 3).hidden(contexts, [-8, -1], 16)
        assert first.dtype == np.float16
        assert first.shape == (6, 2, 2, 4)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_allclose(first[:, :, 1, 0], contexts[:, -1], rtol=1e-3, atol=1e-3)
        assert teacher.asked == 6
        store.close()

    def test_other_steps_or_sizes_are_other_states(self):
        store, teacher = MemoryStore(), StatesTeacher(size=40)
        labeller = Labeller(teacher, store, 3)
        shapes = [
            labeller.hidden(self.contexts(), steps, size).shape
            for steps, size in (([-1], 16), ([-2], 16), ([-1], 8))
        ]
        assert shapes == [(6, 2, 1, 16), (6, 2, 1, 16), (6, 2, 1, 8)]
        assert teacher.asked == 18

    def test_projections_keep_distances_and_are_always_alike(self):
        rng = np.random.default_rng(0)
        teacher = StatesTeacher(bad=lambda s: np.repeat(s, 200, axis=-1) * rng.normal(size=800))
        contexts = self.contexts(30)
        states = teacher.hidden_states(contexts, [-1])[:, 0, 0]
        rng = np.random.default_rng(0)
        small = Labeller(teacher, MemoryStore(), 3).hidden(contexts, [-1], 128)[:, 0, 0]
        wide = np.linalg.norm(states[:-1] - states[1:], axis=1)
        kept = np.linalg.norm(small[:-1].astype(float) - small[1:], axis=1)
        np.testing.assert_allclose(kept, wide, rtol=0.35)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (lambda s: s[:, :, 0], "expected .windows, components or 1"),
            (lambda s: np.repeat(s, 3, axis=1), "expected .windows, components or 1"),
            (lambda s: s[1:], "expected .windows, components or 1"),
            (lambda s: s * np.nan, "NaN or infinite"),
            (lambda s: s * 1e6, "range of float16"),
        ],
    )
    def test_what_cannot_be_states_is_refused_and_not_stored(self, bad, message):
        store = MemoryStore()
        labeller = Labeller(StatesTeacher(bad=bad), store, 3)
        with pytest.raises(ValueError, match=message):
            labeller.hidden(self.contexts(), [-8, -1], 16)
        assert not store._entries
