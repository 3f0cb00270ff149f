import numpy as np

from distilts_forecaster.windows.scaling import SOFTNESS, normalise_contexts, to_rows


def test_rows_are_ordered_by_window_then_component():
    windows = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(to_rows(windows)[1], windows[0, :, 1])
    np.testing.assert_array_equal(to_rows(windows)[2], windows[1, :, 0])


def test_normalised_windows_have_mean_zero_and_bounded_scale():
    values = np.random.default_rng(0).normal(size=(1, 40, 3)).astype(np.float32)
    values[0, :, 1] = 7.0  # constant
    windows = normalise_contexts(values)
    np.testing.assert_allclose(windows.features.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_array_equal(windows.features[1], 0.0)
    restored = windows.features * windows.scale + windows.mean
    np.testing.assert_allclose(restored, values[0].T, atol=1e-5)
    np.testing.assert_allclose(windows.normalise_targets(restored), windows.features, atol=1e-5)


def test_a_nearly_constant_window_is_not_blown_up():
    """Divided by its own deviation it would have targets of a thousand times that of others."""
    rng = np.random.default_rng(0)
    contexts = rng.normal(size=(2, 40, 1)).astype(np.float32)
    contexts[1] *= 1e-3
    windows = normalise_contexts(contexts)
    np.testing.assert_allclose(windows.scale[1], SOFTNESS, rtol=1e-4)
    np.testing.assert_allclose(windows.scale[0], np.hypot(contexts[0].std(), SOFTNESS), rtol=1e-4)
    assert SOFTNESS == 3.0  # of a series' standard deviation: measured, see the module
    targets = windows.normalise_targets(np.ones((2, 4), np.float32))
    assert np.abs(targets).max() < 0.5
