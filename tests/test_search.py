"""The batched tree search: against an exhaustive computation, a plain tree per root, and DeepMind's mctx."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pvdr_bench.bench.plain_tree import plain_search
from pvdr_bench.bench.search import FreeModel, plain_visits
from pvdr_bench.rl.search.boxes import ActionBoxes
from pvdr_bench.rl.search.mcts import sample_visits, search, with_noise
from pvdr_bench.rl.search.tree import Rules

# A small MDP: three states, two actions; action 1 of state 2 pays, and leads back to state 0.
NEXT = np.array([[0, 1], [0, 2], [2, 0]])
REWARD = np.array([[0.1, 0.0], [0.0, -0.1], [0.3, 1.0]])
GAMMA = 0.9


def optimal() -> tuple[np.ndarray, np.ndarray]:
    """V* [3] and Q* [3, 2] by value iteration."""
    value = np.zeros(3)
    for _ in range(1000):
        value = (REWARD + GAMMA * value[NEXT]).max(1)
    return value, REWARD + GAMMA * value[NEXT]


class Known:
    """The small MDP as a model; leaves are worth ``value`` of their state."""

    def __init__(self, roots: np.ndarray, nodes: int, value: np.ndarray) -> None:
        self.state, self.value = np.zeros((len(roots), nodes), np.int64), value
        self.state[:, 0] = roots

    def expand(self, rows: Any, slot: int, parents: Any, actions: Any) -> tuple[Any, Any, Any]:
        before = self.state[rows, parents]
        after = self.state[rows, slot] = NEXT[before, actions]
        return REWARD[before, actions], self.value[after], np.zeros((len(rows), 2))


def test_with_true_values_at_the_leaves_it_finds_the_true_q_and_policy() -> None:
    value, q = optimal()
    roots = np.arange(3)
    once = search(Rules(GAMMA), 2, np.full((3, 2), 0.5), value[roots], Known(roots, 3, value).expand)
    assert np.allclose(once.q[once.visits > 0], q[once.visits > 0])
    found = search(Rules(GAMMA), 400, np.full((3, 2), 0.5), value[roots], Known(roots, 401, value).expand)
    assert (found.policy.argmax(1) == q.argmax(1)).all()
    assert (found.policy[:2].max(1) > 0.8).all()  # state 2's two actions are worth nearly the same
    assert (found.value < value).all() and (found.value > value - 0.3).all()  # less what exploring costs


def test_it_plans_past_leaves_that_know_nothing() -> None:
    """Values of zero everywhere: what pays lies three decisions away from state 0."""
    model = Known(np.zeros(1, int), 401, np.zeros(3))
    found = search(Rules(GAMMA), 400, np.full((1, 2), 0.5), np.zeros(1), model.expand)
    assert found.policy[0].argmax() == optimal()[1][0].argmax() == 1


def test_the_counts_of_a_few_simulations_are_those_of_paper_and_pencil() -> None:
    """Prior 0.7 and 0.3, state 2. Simulation 1 follows the prior; it finds Q = 0.3 (value 0 behind), the only one, so
    both actions are worth the same, and 1.25 sqrt(2) 0.3 = 0.53 against 1.25 sqrt(2) 0.7 / 2 = 0.62 takes it again.
    """
    prior, zero = np.array([[0.7, 0.3]]), np.zeros(3)

    def visits(simulations: int) -> list[float]:
        model = Known(np.array([2]), simulations + 1, zero)
        return search(Rules(GAMMA), simulations, prior, np.zeros(1), model.expand).visits[0].tolist()

    assert [visits(n) for n in (1, 2, 3)] == [[1, 0], [2, 0], [2, 1]]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("simulations", [1, 7, 60])
def test_it_is_the_plain_tree_of_each_root(gamma: float, simulations: int) -> None:
    rng, rules, n, k = np.random.default_rng(simulations), Rules(gamma), 20, 5
    prior, value, mask = rng.dirichlet(np.ones(k), n), rng.normal(size=n), rng.random((n, k)) < 0.7
    mask[:, 2] = True
    model = FreeModel(n, simulations + 1, k, 3)
    found = search(rules, simulations, prior, value, model.expand, mask)
    trees = [plain_search(rules, simulations, i, prior[i].tolist(), value[i], model.expand_one, mask[i].tolist())
             for i in range(n)]
    assert (found.visits == plain_visits(trees, k)).all() and (found.visits.sum(1) == simulations).all()
    assert np.allclose(found.value, [tree.value_sum / tree.visits for tree in trees])
    for i, tree in enumerate(trees):
        assert np.allclose([found.q[i, a] for a in tree.children], [c.q(gamma) for c in tree.children.values()])


def test_trees_do_not_influence_one_another() -> None:
    rng, n, k = np.random.default_rng(0), 12, 6
    prior, value, order = rng.dirichlet(np.ones(k), n), rng.normal(size=n), rng.permutation(n)

    def visits(roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = FreeModel(n, 41, k, 1)
        model.states[:len(roots), 0] = roots
        found = search(Rules(), 40, prior[roots], value[roots], model.expand)
        return found.visits, found.value

    whole, mixed = visits(np.arange(n)), visits(order)
    assert all((a[order] == b).all() for a, b in zip(whole, mixed, strict=True))
    alone = [visits(np.array([i])) for i in range(n)]
    assert (np.concatenate([one[0] for one in alone]) == whole[0]).all()
    scaled = value.copy()
    scaled[1:] = 1e6 * value[1:]
    model = FreeModel(n, 41, k, 1)
    assert (search(Rules(), 40, prior, scaled, model.expand).visits[0] == whole[0][0]).all()


def test_masked_actions_are_never_taken_and_terminal_roots_not_searched() -> None:
    rng, n, k = np.random.default_rng(0), 6, 4
    mask = rng.random((n, k)) < 0.5
    mask[:, 1] = True
    mask[2], mask[4], mask[0] = False, False, [False, False, True, False]
    asked: list[np.ndarray] = []
    model = FreeModel(n, 31, k, 1)

    def expand(rows: Any, slot: int, parents: Any, actions: Any) -> Any:
        asked.append(rows)
        return model.expand(rows, slot, parents, actions)

    found = search(Rules(), 30, rng.dirichlet(np.ones(k), n), rng.normal(size=n), expand, mask)
    assert (found.visits[~mask] == 0).all() and found.visits[0].tolist() == [0, 0, 30, 0]
    assert all({2, 4}.isdisjoint(rows) for rows in asked)
    assert found.value[2] == 0 and found.policy[2].sum() == 0 and (found.visits[[0, 1, 3, 5]].sum(1) == 30).all()
    assert search(Rules(), 30, np.ones((2, k)) / k, np.zeros(2), expand, np.zeros((2, k), bool)).visits.sum() == 0


def test_noise_is_mixed_into_allowed_actions() -> None:
    prior, mask = np.tile([0.5, 0.5, 0.0], (4000, 1)), np.tile([True, True, False], (4000, 1))
    noisy = with_noise(prior, mask, np.random.default_rng(0), 0.3, 0.25)
    assert np.allclose(noisy.sum(1), 1) and (noisy[:, 2] == 0).all()
    assert abs(noisy[:, 0].mean() - 0.5) < 0.01 and noisy[:, 0].min() < 0.38 + 0.01 and noisy[:, 0].max() > 0.61
    # of Dirichlet(a, a): variance 1 / (4 (2 a + 1))
    assert noisy[:, 0].std() == pytest.approx(0.25 * (1 / (4 * 1.6)) ** 0.5, rel=0.05)
    assert np.isfinite(with_noise(prior, mask, np.random.default_rng(0), 1e-4, 0.25)).all()
    assert (with_noise(prior, mask, np.random.default_rng(0), 0.3, 0.0) == prior).all()


def test_temperature_sharpens_visit_counts() -> None:
    visits = np.tile([1.0, 3.0, 0.0], (20000, 1))
    for temperature, share in ((1.0, 0.75), (0.5, 0.9), (0.25, 81 / 82)):
        drawn = sample_visits(visits, temperature, np.random.default_rng(0))
        assert abs((drawn == 1).mean() - share) < 0.01 and (drawn < 2).all()
    assert (sample_visits(visits, 0, np.random.default_rng(0)) == 1).all()
    assert sample_visits(np.zeros((2, 3)), 1.0, np.random.default_rng(0)).tolist() == [0, 0]


@pytest.mark.parametrize(("dims", "count"), [(1, 2), (2, 4), (4, 16), (7, 16)])
def test_boxes_halve_the_first_four_dimensions(dims: int, count: int) -> None:
    boxes = ActionBoxes(dims, 4)
    assert boxes.count == count
    drawn = boxes.draw(300, torch.Generator().manual_seed(0))
    assert drawn.shape == (300, count, dims) and drawn.abs().max() <= 1
    assert (boxes.of(drawn) == torch.arange(count)).all()
    halved = drawn[..., :boxes.halved]
    assert torch.allclose(halved.abs().mean(0), torch.full((count, boxes.halved), 0.5), atol=0.08)
    assert len({tuple(row) for row in (halved[0] >= 0).tolist()}) == count
    if dims > 4:
        rest = drawn[..., 4:]
        assert rest.mean().abs() < 0.05 and rest.min() < -0.95 and rest.max() > 0.95
    assert boxes.of(torch.zeros(dims)) == count - 1


# DeepMind's mctx ----------------------------------------------------------------------------------------------------


def mctx_visits(model: FreeModel, prior: np.ndarray, value: np.ndarray, simulations: int, rules: Rules) -> np.ndarray:
    """Visits [N, K] of ``mctx.muzero_policy`` without noise, with the soft min-max and mean Q in place of its own."""
    jax, mctx = pytest.importorskip("jax"), pytest.importorskip("mctx")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    reward, leaf, logits = (jnp.asarray(x) for x in (model.reward, model.value, model.logits))

    def recurrent(params: Any, key: Any, action: Any, state: Any) -> Any:
        after = (31 * state + 7 * action + 1) % model.size
        discount = jnp.full(action.shape, rules.discount)
        return mctx.RecurrentFnOutput(reward=reward[after], discount=discount, prior_logits=logits[after],
                                      value=leaf[after]), after

    def qtransform(tree: Any, node: Any) -> Any:
        all_q = tree.children_rewards + tree.children_discounts * tree.children_values
        seen = tree.children_visits > 0
        low = jnp.where(seen, all_q, jnp.inf).min()
        high = jnp.where(seen, all_q, -jnp.inf).max()
        low, spread = jnp.where(seen.any(), low, 0.0), jnp.where(seen.any(), high - low, 1.0)

        def up(state: Any) -> Any:
            at, worth, weight = state
            total, tried = jnp.where(seen[at], all_q[at], 0).sum(), seen[at].sum()
            root = (at == 0) & (tried > 0)
            share = weight / jnp.where(root, tried, tried + 1)
            return tree.parents[at], worth + share * total, jnp.where(root, 0.0, share)

        zero = jnp.zeros((), all_q.dtype)
        _, mean_q, _ = jax.lax.while_loop(lambda state: state[0] >= 0, up, (node, zero, zero + 1))
        value = jnp.where(seen[node], all_q[node], mean_q)
        return jnp.clip((value - low) / jnp.maximum(spread, rules.value_delta_max), 0, 1)

    roots = mctx.RootFnOutput(prior_logits=jnp.log(jnp.asarray(prior)), value=jnp.asarray(value),
                              embedding=jnp.arange(len(prior)))
    out = mctx.muzero_policy(None, jax.random.PRNGKey(0), roots, recurrent, simulations, qtransform=qtransform,
                             dirichlet_fraction=0.0, pb_c_init=rules.pb_c_init, pb_c_base=rules.pb_c_base)
    return np.asarray(out.search_tree.summary().visit_counts)


def test_it_agrees_with_mctx() -> None:
    rng, n, k, simulations = np.random.default_rng(5), 16, 6, 40
    prior, value = rng.dirichlet(np.ones(k), n), rng.normal(size=n)
    model = FreeModel(n, simulations + 1, k, 2)
    found = search(Rules(), simulations, prior, value, model.expand)
    assert (found.visits == mctx_visits(model, prior, value, simulations, Rules())).all()
