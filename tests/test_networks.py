import numpy as np
import pytest
from conftest import network as build_network

torch = pytest.importorskip("torch")

from distilts_forecaster.students import (  # noqa: E402
    MLP,
    DLinear,
    ITransformer,
    Linear,
    Network,
    Training,
)
from distilts_forecaster.students.networks import MLPNetwork  # noqa: E402

L, T = 24, 6


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel_size", [None, 1, 5, 25])
def test_dlinear_folds_exactly_to_one_matrix(kernel_size):
    network = build_network(DLinear(kernel_size=kernel_size), L, T).double()
    context = torch.randn(5, L, 3, dtype=torch.float64)
    folded = network.fold()
    assert folded.shape == (L, T)
    expected = torch.einsum("blc,lt->btc", context, folded)
    torch.testing.assert_close(network(context), expected, rtol=1e-10, atol=1e-10)


def test_a_moving_average_keeps_constants_and_repeats_the_ends():
    network = build_network(DLinear(kernel_size=3), 4, 1)
    rows = torch.tensor([[5.0, 5.0, 5.0, 5.0], [0.0, 3.0, 0.0, 6.0]])
    expected = torch.tensor([[5.0, 5.0, 5.0, 5.0], [1.0, 1.0, 3.0, 4.0]])
    torch.testing.assert_close(network._average(rows), expected)


def test_the_order_of_components_does_not_matter_to_the_itransformer():
    network = build_network(ITransformer(d_model=16, d_ff=32), L, T).eval()
    context = torch.randn(3, L, 4)
    order = [2, 0, 3, 1]
    forecast, hidden = network(context)
    permuted, permuted_hidden = network(context[:, :, order])
    torch.testing.assert_close(permuted, forecast[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted_hidden, hidden[:, order], rtol=1e-4, atol=1e-5)
    # Components see each other.
    context[:, :, 0] += torch.randn(3, L)
    assert not torch.allclose(network(context)[0][:, :, 1], forecast[:, :, 1], atol=1e-4)


def test_the_mlp_starts_as_the_linear_map_it_is_given():
    network = build_network(MLP(), L, T).eval()
    weights = torch.randn(L, T)
    network.start_from(weights.numpy())
    context = torch.randn(3, L, 2)
    forecast, hidden = network(context)
    torch.testing.assert_close(forecast[..., 0], torch.einsum("blc,lt->btc", context, weights))
    assert hidden.shape == (3, 2, network.hidden_size)


def test_the_mlp_sees_covariates_of_past_and_future():
    network = build_network(MLP(), L, T, 1, (2, 3, 0)).eval()
    torch.nn.init.normal_(network.head.weight)
    context, past, future = torch.randn(2, L, 1), torch.randn(2, L, 2), torch.randn(2, L + T, 3)
    before = network(context, past, future)[0]
    assert not torch.allclose(network(context, past + 1, future)[0], before)
    last = future.clone()
    last[:, -1] += 1
    assert not torch.allclose(network(context, past, last)[0], before)


def test_networks_keep_components_apart_or_not_as_they_say():
    network = build_network(MLP(), L, T).eval()
    torch.nn.init.normal_(network.head.weight)
    context = torch.randn(2, L, 2)
    before = network(context)[0]
    context[:, :, 0] = 0
    torch.testing.assert_close(network(context)[0][:, :, 1], before[:, :, 1])
    assert isinstance(network, MLPNetwork)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DLinear(kernel_size=24), ValueError, "odd, got 24; try 25"),
        (lambda: ITransformer(d_model=10, n_heads=4), ValueError, "multiple of n_heads"),
        (
            lambda: ITransformer(dropout=1.0),
            ValueError,
            "dropout must be a number of at least 0 and below 1",
        ),
        (lambda: MLP(hidden_size=0), ValueError, "hidden_size must be at least 1"),
        (lambda: MLP(n_blocks=1.5), TypeError, "n_blocks must be an integer"),
        (lambda: MLP(training={"max_epochs": 3}), TypeError, "training must be Training"),
        (lambda: Training(learning_rate=0), ValueError, "learning_rate"),
        (lambda: Training(learning_rate="fast"), TypeError, "learning_rate must be a number"),
        (lambda: Training(learning_rate=float("nan")), ValueError, "learning_rate"),
        (lambda: Training(schedule="step"), ValueError, "'cosine', 'constant'; got 'step'"),
        (lambda: Training(precision="half"), ValueError, "precision"),
        (lambda: Training(max_windows_per_epoch=0), ValueError, "max_windows_per_epoch"),
        (lambda: Training(device=0), TypeError, "device"),
        (lambda: Network("resnet"), TypeError, "a function or class that builds"),
        (lambda: Network(torch.nn.Linear(2, 2)), TypeError, "student=module"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_reason(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_function_that_builds_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must build a torch\.nn\.Module, got int"):
        build_network(Network(lambda *sizes: 3), L, T)


def test_settings_are_values():
    assert MLP() == MLP()
    assert hash(DLinear()) == hash(DLinear())
    assert Linear() != MLP()
    assert np.isclose(Training().learning_rate, 1e-3)
