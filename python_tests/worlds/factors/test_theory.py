"""What observers of trials can know, beside simulated observers."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from worldfast.worlds import factors
from worldfast.worlds.factors import theory

N = 20_000


@pytest.fixture(scope="module")
def seen():
    """Points, and the means of 20 observations of each."""
    random = np.random.default_rng(0)
    x = random.random((N, 2)) - 0.5
    return x, x + random.normal(size=(N, 2)) * 0.2 / np.sqrt(20)


@pytest.mark.parametrize("n,best", [(24, 0.960), (2, 0.952)])
def test_the_best_accuracy(n, best, seen):
    """As published from theory; an observer who takes the side of the mean has it."""
    asked = factors.Dataset(n=n).asked
    boundary, found = asked.boundary, factors.best_accuracy(asked, 0.2, 20)
    assert found == pytest.approx(best, abs=5e-4)
    x, m = seen
    assert ((m @ boundary.T > 0) == (x @ boundary.T > 0)).mean() == pytest.approx(found, abs=0.002)


def test_the_best_accuracy_of_more_latent_numbers():
    asked = factors.Dataset("random", n=6, dims=4).asked
    random = np.random.default_rng(1)
    x = random.random((N, 4)) - 0.5
    m = x + random.normal(size=x.shape) * 0.2 / np.sqrt(20)
    right = ((m @ asked.boundary.T > 0) == (x @ asked.boundary.T > 0)).mean()
    assert factors.best_accuracy(asked, 0.2, 20) == pytest.approx(right, abs=0.003)


@pytest.mark.parametrize("questions,n", [("even", 24), ("even", 3), ("random", 5)])
def test_the_point_follows_from_the_best_answers(questions, n, seen):
    """Exactly the mean of the observations, with an R2 of 0.976."""
    x, m = seen
    given = factors.Dataset(questions, n=n).asked, 0.2, 20
    found = factors.trilaterated(*factors.best_answers(m, *given), *given)
    np.testing.assert_allclose(found, m, atol=1e-9)
    assert 1 - ((found - x) ** 2).mean() * 12 == pytest.approx(factors.bound(0.2, 20), abs=1e-3)
    assert factors.bound(0.2, 20) == pytest.approx(0.976)


def test_chances_that_are_clipped_lose_the_point(seen):
    """As published: clipped at 1e-9, R2 falls to 0.878."""
    x, m = seen
    given = factors.Dataset(n=24).asked, 0.2, 20
    clipped = np.clip(np.exp(factors.best_answers(m, *given)), 1e-9, 1 - 1e-9)
    found = factors.trilaterated(np.log(clipped[0]), np.log1p(-clipped[0]), *given)
    assert 1 - ((found - x) ** 2).mean() * 12 == pytest.approx(0.878, abs=0.01)


def test_logits_stand_for_distances(seen):
    """A sigmoid is near a normal distribution function, so that answers of a linear readout are a map too."""
    x, m = seen
    given = factors.Dataset(n=24).asked, 0.2, 20
    z = m @ theory.unit_normals(given[0]).T * np.sqrt(20) / 0.2
    yes, no = factors.log_chances(z / 0.589)
    np.testing.assert_allclose(np.exp(yes) + np.exp(no), 1, rtol=1e-12)
    assert np.abs(np.exp(yes) - np.exp(factors.best_answers(m, *given)[0])).max() < 0.0098


def test_the_loss_of_the_best_observer(seen):
    """(21 ln 2 + 0.0904) / 22 = 0.66575, below which no net falls at 24 questions."""
    x, m = seen
    given = factors.Dataset(n=24).asked, 0.2, 20
    yes, no = factors.best_answers(m, *given)
    decision = -np.where(x @ given[0].boundary.T > 0, yes, no).mean()
    assert (21 * np.log(2) + decision) / 22 == pytest.approx(0.66575, abs=2e-4)


def test_no_observer_is_right_more_often(seen):
    """The side of the mean is also what an observer who knows the edges of the square answers, to within 1e-3."""
    size, pad, sd = 200, 60, 0.2 / np.sqrt(20)
    at = (np.arange(-pad, size + pad) + 0.5) / size - 0.5
    x1, x2 = np.meshgrid(at, at, indexing="ij")
    inside = (np.maximum(abs(x1), abs(x2)) < 0.5) / size**2
    best = []
    for c1, c2 in factors.Dataset(n=6).asked.boundary:
        yes = c1 * x1 + c2 * x2 > 0
        of_mean = [gaussian_filter(inside * side, sd * size, mode="constant") for side in (yes, ~yes)]
        best.append(np.maximum(*of_mean).sum())
    assert factors.best_accuracy(factors.Dataset(n=6).asked, 0.2, 20) == pytest.approx(np.mean(best), abs=1e-3)


def answers(n):
    return np.full((5, n), -0.7), np.full((5, n), -0.7)


@pytest.mark.parametrize(
    "call,error,said",
    [
        (lambda of: of.best_accuracy(of.Dataset("products").asked, 0.2, 20), ValueError, "got questions of products"),
        (
            lambda of: of.trilaterated(*answers(24), of.Dataset("products").asked, 0.2, 20),
            ValueError,
            "asked: expected half-spaces c . x > 0, got questions of products",
        ),
        (lambda of: of.best_accuracy(np.eye(2), 0.2, 20), TypeError, "asked: expected questions, such as"),
        (lambda of: of.best_accuracy(of.Dataset(n=2).asked, 0, 20), ValueError, "sigma: expected a number from 1e-05"),
        (lambda of: of.best_accuracy(of.Dataset(n=2).asked, 0.2, 0), ValueError, "t: expected at least 1, got 0"),
        (lambda of: of.bound(0.2, 0), ValueError, "t: expected at least 1, got 0"),
        (lambda of: of.bound(-0.2, 20), ValueError, "sigma: expected a number from 1e-05 to 1,000, got -0.2"),
        (lambda of: of.bound(1e200, 20), ValueError, r"sigma: expected a number from 1e-05 to 1,000, got 1e\+200"),
        (lambda of: of.bound(0.2, 1.5), TypeError, "t: expected an integer, got 1.5"),
        (
            lambda of: of.trilaterated(*answers(2), of.Questions(np.ones((2, 2)), -np.ones(2)), 0.2, 20),
            ValueError,
            "asked: expected normals that span 2 dimensions, got 1: the point is not determined",
        ),
        (
            lambda of: of.best_accuracy(of.Questions(np.array([[1.0, 0], [0, 0]]), -np.ones(2)), 0.2, 20),
            ValueError,
            "asked.boundary: question 1 has a normal of length 0: no hyperplane through the points",
        ),
        (
            lambda of: of.best_accuracy(of.Questions(np.full((2, 2), np.nan), -np.ones(2)), 0.2, 20),
            ValueError,
            "asked.boundary: holds NaN or infinity",
        ),
        (
            lambda of: of.best_accuracy(of.Questions(np.eye(2), -np.ones(3)), 0.2, 20),
            ValueError,
            r"asked.threshold: expected \[2\], got \[3\]",
        ),
        (
            lambda of: of.trilaterated(*answers(24), of.Dataset(n=6).asked, 0.2, 20),
            ValueError,
            r"yes: expected \[n, 6\], got \[\d+, 24\]",
        ),
        (
            lambda of: of.trilaterated(*np.exp(answers(24)), of.Dataset(n=24).asked, 0.2, 20),
            ValueError,
            "yes: expected logarithms of chances, at most 0, got",
        ),
        (lambda of: of.log_chances(np.zeros(24)), ValueError, r"logits: expected \[n, N\], got \[24\]"),
        (
            lambda of: of.best_answers(np.zeros((5, 3)), of.Dataset(n=6).asked, 0.2, 20),
            ValueError,
            r"m: expected \[n, 2\], got \[5, 3\]",
        ),
        (
            lambda of: of.trilaterated(*np.full((2, 1, 24), np.nan), of.Dataset(n=24).asked, 0.2, 20),
            ValueError,
            "yes: holds NaN or infinity",
        ),
    ],
)
def test_bad_arguments(call, error, said):
    with pytest.raises(error, match=said):
        call(factors)


def test_the_bound_without_noise():
    assert factors.bound(0, 1) == 1
