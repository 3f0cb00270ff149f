import pickle

import numpy as np
import pytest
from conftest import frame, network, seasonal
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from distilts_forecaster.runtime.covariates import Covariates, CovariateScales  # noqa: E402
from distilts_forecaster.runtime.quantiles import ErrorQuantiles  # noqa: E402
from distilts_forecaster.students import MLP, DLinear, ITransformer, Network  # noqa: E402

L, T = 24, 6
KINDS = {
    "itransformer": ITransformer(d_model=16, d_ff=32),
    "mlp": MLP(hidden_size=16),
    "dlinear": DLinear(),
}


def make(kind, n_quantiles=1, shift=0):
    torch.manual_seed(0)
    net = network(KINDS[kind], L, T, n_quantiles)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    levels = (0.5,) if n_quantiles == 1 else (0.1, 0.5, 0.9)
    errors = ErrorQuantiles(np.zeros((T, n_quantiles), np.float32), levels, 0.5)
    made = KINDS[kind].to_forecaster(net, frame(L, T, shift, levels))
    return made.with_error_quantiles(errors)


STUDENTS = {kind: make(kind) for kind in KINDS}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def windows(n=5, components=3, seed=0):
    rng = np.random.default_rng(seed)
    return seasonal(L, n * components, seed=int(rng.integers(100))).reshape(L, n, components)\
        .transpose(1, 0, 2)  # fmt: skip


@kinds
@hypothesis_settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 50))
def test_forecasts_move_and_scale_with_the_context(kind, scale, shift, seed):
    contexts = windows(seed=seed)
    moved = STUDENTS[kind].predict(scale * (contexts + shift))
    expected = scale * (STUDENTS[kind].predict(contexts) + shift)
    np.testing.assert_allclose(moved, expected, atol=1e-3 * scale, rtol=1e-6)


@kinds
def test_a_batch_forecasts_as_each_window_by_itself(kind):
    contexts = windows(7)
    together = STUDENTS[kind].predict(contexts)
    for context, forecast in zip(contexts, together, strict=True):
        np.testing.assert_allclose(STUDENTS[kind].predict(context), forecast, rtol=1e-4, atol=1e-5)


def test_large_batches_are_forecast_in_parts(monkeypatch):
    contexts = windows(9)
    whole = STUDENTS["mlp"].predict(contexts)
    monkeypatch.setattr("distilts_forecaster.runtime.networks._ROWS_PER_CHUNK", 6)
    np.testing.assert_allclose(STUDENTS["mlp"].predict(contexts), whole, rtol=1e-5, atol=1e-6)


@kinds
def test_longer_forecasts_feed_the_first_ones_back(kind):
    contexts = windows(2)
    student = STUDENTS[kind]
    first = student.predict(contexts)
    second = student.predict(np.concatenate([contexts, first], axis=1))
    longer = student.predict(contexts, horizon=T + 2)
    np.testing.assert_allclose(longer[:, :T], first)
    np.testing.assert_allclose(longer[:, T:], second[:, :2], rtol=1e-4, atol=1e-5)


@kinds
def test_a_pickled_student_is_the_same_and_holds_nothing_of_torch(kind):
    student = make(kind, shift=2)
    content = pickle.dumps(student)
    assert b"torch" not in content
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.predict(windows()), student.predict(windows()))
    assert again.output_chunk_shift == 2
    assert again.n_parameters == student.n_parameters


@pytest.mark.parametrize("n_covariates", [(0, 0, 0), (2, 5, 3)])
@pytest.mark.parametrize("kind", ["mlp", "itransformer"])
def test_numpy_computes_what_torch_does(kind, n_covariates):
    torch.manual_seed(0)
    net = network(KINDS[kind], L, T, 3, n_covariates).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    scales = [np.stack([np.zeros(n), np.ones(n)]) if n else None for n in n_covariates]
    given = frame(L, T, 0, (0.1, 0.5, 0.9), scales=CovariateScales(*scales))
    student = KINDS[kind].to_forecaster(net, given)
    rng = np.random.default_rng(0)
    shapes = [(4, L, 3)] + [
        shape if shape[-1] else None
        for shape in zip(
            (4, 4, 4), (L, L + T, 3), n_covariates, strict=True
        )
    ]  # fmt: skip
    given = [None if s is None else rng.normal(size=s).astype(np.float32) for s in shapes]
    with torch.no_grad():
        expected, _ = net(*(None if g is None else torch.from_numpy(g) for g in given))
    made = student._run(given[0], Covariates(*given[1:]))
    np.testing.assert_allclose(made, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "itransformer"])
def test_quantiles_never_cross(kind):
    student = make(kind, 3)
    quantiles = student.predict_quantiles(windows(20))
    assert quantiles.shape == (20, T, 3, 3)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    np.testing.assert_array_equal(student.predict(windows(20)), quantiles[..., 1])
    beyond = student.predict_quantiles(windows(20), 2 * T)
    np.testing.assert_allclose(beyond[:, :T], quantiles)
    assert (np.diff(beyond, axis=-1) >= 0).all()
    np.testing.assert_allclose(beyond[:, T:, :, 1], student.predict(windows(20), 2 * T)[:, T:])


@kinds
def test_a_constant_goes_on(kind):
    np.testing.assert_array_equal(STUDENTS[kind].predict(np.full((L, 1), 7.0)), np.full((T, 1), 7))


def test_a_point_network_may_leave_out_the_axis_of_quantiles():
    class Point(torch.nn.Module):
        def forward(self, context):
            return context[:, -1:].expand(-1, T, -1)

    student = Network(lambda *sizes: Point()).to_forecaster(Point(), frame(L, T))
    contexts = windows()
    np.testing.assert_allclose(
        student.predict(contexts), np.repeat(contexts[:, -1:], T, axis=1), rtol=1e-5, atol=1e-6
    )
