import numpy as np
import pytest

from edgevit.profiling.latency_statistics import MIN_ROUNDS, bootstrap_ratio, median, percentile, spread, stability

ROUNDS = 10


@pytest.mark.parametrize("count", [1, 2, 5, 50, 99])
@pytest.mark.parametrize("percent", [0, 10, 50, 90, 99, 100])
def test_percentile_is_numpys_default_rule(count, percent):
    samples = np.random.default_rng(count).integers(1, 10**9, count).tolist()
    assert percentile(samples, percent) == pytest.approx(np.percentile(samples, percent), rel=1e-12)


def test_median_of_even_count_lies_between_the_middle_two():
    assert median([4, 1, 3, 2]) == 2.5


def test_spread_is_relative_to_the_median():
    assert spread([9, 10, 12]) == pytest.approx(0.3)


def test_stability_sees_a_machine_that_slows_down_but_not_a_lone_outlier():
    assert stability([10] * 10 + [11] * 10 + [12] * 10) == pytest.approx(2 / 11)
    assert stability([10] * 14 + [500] + [10] * 15) == 0


def test_stability_of_two_samples_is_not_measured():
    assert stability([1, 2]) is None


def test_bootstrap_is_repeatable_and_brackets_its_estimate():
    ratios = [0.9, 0.95, 1.0, 1.02, 1.05, 1.1]
    interval = bootstrap_ratio(ratios, seed=3)
    assert interval == bootstrap_ratio(ratios, seed=3)
    assert min(ratios) <= interval.low < interval.estimate < interval.high <= max(ratios)
    assert interval.estimate == median(ratios)


def test_equal_ratios_give_an_interval_without_width():
    interval = bootstrap_ratio([0.5] * MIN_ROUNDS)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def paired_ratios(true_ratio: float, seed: int) -> list[float]:
    """Ratios of round medians on a noisy machine: it slows by half during the rounds, and 4 % remain per process."""
    noise = np.random.default_rng(seed)
    slots = np.linspace(1.0, 1.5, 2 * ROUNDS) * noise.lognormal(0, 0.04, 2 * ROUNDS)
    ratios = []
    for number in range(ROUNDS):
        first, second = slots[2 * number : 2 * number + 2]
        a, b = (first, second) if number % 2 == 0 else (second, first)
        ratios.append(true_ratio * a / b)
    return ratios


def test_same_artifact_twice_shows_no_difference_at_the_expected_rate():
    found = [bootstrap_ratio(paired_ratios(1.0, seed), resamples=2000) for seed in range(100)]
    assert found[0].includes(1.0)
    assert sum(not interval.includes(1.0) for interval in found) <= 12  # 5 % expected, about 7 % at 10 rounds


def test_a_fifth_less_is_found_every_time():
    found = [bootstrap_ratio(paired_ratios(0.8, seed), resamples=2000) for seed in range(100)]
    assert all(interval.high < 1.0 for interval in found)
    assert sum(interval.includes(0.8) for interval in found) >= 85
