"""Numbers for what the eye sees in Fig. 6 of the paper: do representations that are alike stand for actions that are?

Shapes: n samples, d numbers of a representation z, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.rl.ranks import spearman

Values = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Groups = NDArray[np.int64]

PERMUTATIONS = 20
FOLDS = 5  # of a probe
PENALTIES = 10.0 ** np.arange(-4, 5)  # of ridge regression, times n
PERPLEXITY = 30.0  # of t-SNE, the library's own and van der Maaten and Hinton's suggestion (5 to 50)
FEWEST = 20  # samples that any of this makes sense with
FEWEST_GROUPS = 2 * FOLDS


def cmyk_to_rgb(action: Values) -> Doubles:
    """Colours [n, 3] in [0, 1] of actions [n, A] in [-1, 1].

    As the paper has it (Fig. 6), an action of four numbers is scaled from [-1, 1] to [0, 1] and taken for cyan,
    magenta, yellow and black: R = (1 - C)(1 - K), and so on. With fewer numbers the last inks are left out; of more
    than four the first four are seen.
    """
    ink = np.zeros((len(action), 4))
    seen = (np.asarray(action, np.float64)[:, :4].clip(-1, 1) + 1) / 2
    ink[:, :seen.shape[1]] = seen
    return (1 - ink[:, :3]) * (1 - ink[:, 3:])


def rank_correlation(z: Values, action: Values) -> float | None:
    """Spearman's rank correlation of the Euclidean distances between all pairs of z [n, d] and of actions [n, A]; None
    where all distances of one kind are equal, or there are fewer than three."""
    from scipy.spatial.distance import pdist

    return spearman(*(pdist(np.asarray(x, np.float64)) for x in (z, action)))


@dataclass(frozen=True)
class Probe:
    """A linear probe: R² on samples that it was not fitted to.

    Attributes:
        r2: 1 at best, 0 for the mean action, below 0 for worse; None where the actions do not vary, or there are fewer
            than :data:`FEWEST_GROUPS` groups.
        permuted, permuted_highest: mean and highest of the same with the actions in random order: what is found where
            there is nothing to find.
    """

    r2: float | None
    permuted: float | None
    permuted_highest: float | None


def linear_probe(z: Values, action: Values, seed: int = 0, permutations: int = PERMUTATIONS,
                 group: Groups | None = None) -> Probe:
    """Ridge regression from z [n, d] to actions [n, A]: every fifth of the groups is predicted by what was fitted to
    others, with the penalty that is best when each group of theirs is left out.

    R² is 1 - sum of squared errors / sum of squares about the mean action, over all samples and dimensions together.

    Args:
        group: [n]. None: each sample is a group of its own.
    """
    rng = np.random.default_rng(seed)
    names = np.arange(len(z)) if group is None else np.unique(group, return_inverse=True)[1]
    count = int(names.max()) + 1
    x, y = np.asarray(z, np.float64), np.asarray(action, np.float64)
    about = float(np.square(y - y.mean(0)).sum())
    if count < FEWEST_GROUPS or about <= 1e-12:
        return Probe(None, None, None)
    fold = (rng.permutation(count) % FOLDS)[names]
    probes = [_Fold(x, np.flatnonzero(fold != one), np.flatnonzero(fold == one), None if group is None else names)
              for one in range(FOLDS)]

    def r2(y: Doubles) -> float:
        return 1 - sum(probe.error(y) for probe in probes) / about

    found = [r2(y[rng.permutation(len(y))]) for _ in range(permutations)]
    return Probe(r2(y), float(np.mean(found)), float(np.max(found)))


class _Fold:
    """Samples [n, d] that a probe is fitted to, and those that it is judged on."""

    def __init__(self, x: Doubles, fit: Groups, test: Groups, names: Groups | None) -> None:
        mean, scale = x[fit].mean(0), x[fit].std(0)
        x = (x - mean) / np.where(scale > 1e-12, scale, 1.0)
        self.fit, self.test, self.judged = fit, test, x[test]
        self.ridge = _Ridge(x[fit], None if names is None else names[fit])

    def error(self, y: Doubles) -> float:
        """The sum of squared errors of the actions [n, A] that are judged."""
        guess = self.judged @ self.ridge.fit(y[self.fit]) + y[self.fit].mean(0)
        return float(np.square(guess - y[self.test]).sum())


class _Ridge:
    """Ridge regression on one set of centred inputs [n, d], for many targets [n, A]: of one decomposition, which a
    library makes anew for each of a hundred orders of the actions."""

    def __init__(self, x: Doubles, group: Groups | None) -> None:
        self.u, self.s, self.v = np.linalg.svd(x, full_matrices=False)
        self.groups = None if group is None else [np.flatnonzero(group == one) for one in np.unique(group)]

    def fit(self, y: Doubles) -> Doubles:
        """Weights [d, A] for targets less their mean, of the penalty with the smallest error in groups left out."""
        n, about = len(y), y - y.mean(0)
        inner = self.u.T @ about
        best: tuple[float, float] | None = None
        for penalty in PENALTIES * n:
            shrink = self.s**2 / (self.s**2 + penalty)
            rest = self._left_out(shrink, about - self.u @ (shrink[:, None] * inner))
            error = float(np.square(rest).sum())
            if best is None or error < best[0]:
                best = error, float(penalty)
        assert best is not None
        weights: Doubles = self.v.T @ ((self.s / (self.s**2 + best[1]))[:, None] * inner)
        return weights

    def _left_out(self, shrink: Doubles, rest: Doubles) -> Doubles:
        """Residuals [n, A] of each group when it is left out, of those when it is not: (1 - H of the group)^-1 rest."""
        n = len(rest)
        if self.groups is None:
            leverage = (self.u**2 * shrink).sum(1) + 1 / n  # the mean is fitted too
            out: Doubles = rest / np.maximum(1 - leverage, 1e-9)[:, None]
            return out
        out = np.empty_like(rest)
        for rows in self.groups:
            u = self.u[rows]
            out[rows] = np.linalg.solve(np.eye(len(rows)) - (u * shrink) @ u.T - 1 / n, rest[rows])
        return out


def measured(z: Values, action: Values, seed: int = 0, group: Groups | None = None) -> dict[str, Any]:
    """Both numbers of one picture, with the probe's baseline and the spread of actions (mean standard deviation)."""
    probe = linear_probe(z, action, seed, group=group)
    return {"rank_correlation": rank_correlation(z, action), "probe_r2": probe.r2, "probe_r2_permuted": probe.permuted,
            "probe_r2_permuted_highest": probe.permuted_highest,
            "action_spread": float(np.asarray(action, np.float64).std(0).mean())}


def in_the_plane(z: Values, seed: int = 0) -> Doubles:
    """z [n, d] mapped to [n, 2] by t-SNE (scikit-learn's, Barnes-Hut, started from principal components).

    Raises:
        SetupError: scikit-learn is not installed.
    """
    from pvdr_bench.needed import need

    manifold = need("sklearn.manifold", "t-SNE", "pip install 'pvdr-bench[inspect]', or: pip install scikit-learn")
    tsne = manifold.TSNE(2, perplexity=min(PERPLEXITY, (len(z) - 1) / 3), init="pca", random_state=seed, n_jobs=1)
    found: Doubles = tsne.fit_transform(np.asarray(z, np.float64)).astype(np.float64)
    return found
