"""Is the model good before the loop is judged? Offline probes of z and of the planner on held-out windows.

They use a corpus' side file of actions and hand positions, which no learner ever sees.
Shapes: B windows, m context and l future frames, h x w token grid, A action dimensions, N candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.algorithms.pvdr.planner import GoalDistance, Planner
from pvdr_bench.rl.actor_critic import NetworkConfig, StateNetwork


@dataclass
class Windows:
    """Windows of a corpus with the simulator's truth beside them."""

    clips: Tensor  # int64 [B, m + l, h, w]
    action: Tensor  # float32 [B, A] in [-1, 1], at the last context frame or the mean from there on
    hand: Tensor  # float32 [B, 3], the hand at the last context frame, metres
    goal: Tensor  # int64 [B, h, w], another frame of the same episode
    goal_hand: Tensor  # float32 [B, 3], the hand in that frame

    def rows(self, index: Tensor) -> Windows:
        """The windows at ``index`` int64 [b]."""
        return Windows(self.clips[index], self.action[index], self.hand[index], self.goal[index], self.goal_hand[index])


def cut_windows(tokens: np.ndarray, action: np.ndarray, hand: np.ndarray, frames: int, context: int, stride: int,
                rng: np.random.Generator, reach: tuple[float, float] = (0.06, 0.4), ahead: int = 1) -> Windows:
    """Every window of one episode, each with a random frame whose hand is ``reach`` metres away as its goal.

    tokens [F, h, w], action [F, A], hand [F, 3]; windows without such a frame are left out. A window's action is the
    mean of the ``ahead`` actions from its last context frame on.
    """
    picked: list[tuple[np.ndarray, int, int]] = []
    for start in range(len(tokens) - (frames - 1) * stride):
        index = start + stride * np.arange(frames)
        now = int(index[context - 1])
        away = np.linalg.norm(hand - hand[now], axis=1)
        goals = np.flatnonzero((away > reach[0]) & (away < reach[1]))
        if len(goals):
            picked.append((index, now, int(rng.choice(goals))))
    clips = np.stack([tokens[i] for i, _, _ in picked]) if picked else np.zeros((0, frames, *tokens.shape[1:]))
    now_index, goal_index = np.array([n for _, n, _ in picked], int), np.array([g for _, _, g in picked], int)
    mean = np.mean([action[now_index + k] for k in range(ahead)], 0)
    return Windows(torch.from_numpy(clips.astype(np.int64)), torch.from_numpy(mean).float(),
                   torch.from_numpy(hand[now_index]).float(), torch.from_numpy(tokens[goal_index].astype(np.int64)),
                   torch.from_numpy(hand[goal_index]).float())


def join(parts: list[Windows]) -> Windows:
    """All windows of several episodes."""
    names = ("clips", "action", "hand", "goal", "goal_hand")
    return Windows(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@torch.no_grad()
def nearest_frame(codes: Tensor, frames: Tensor) -> Tensor:
    """Share of tokens in which codes [B, h, w] differ from the nearest of real frames [F, h, w], [B]."""
    pool = frames.flatten(1).to(torch.int16)
    rows = [(code[None] != pool).float().mean(1).min() for code in codes.flatten(1).to(torch.int16)]
    return torch.stack(rows)


@torch.no_grad()
def plan_validity(model: DynamicsModel, windows: Windows, frames: Tensor, seed: int = 0) -> dict[str, float]:
    """Are last plan frames pictures that there could be? Mean distance of each to the nearest of ``frames``, real
    ones of other episodes [F, h, w]: for the true last frames, plans from the posterior, from the prior, and from
    N(0, I). A plan that breaks is far from every real frame; one that is as near as the truth is a possible picture.
    """
    generator, (context, future) = torch.Generator().manual_seed(seed), model.split(windows.clips)
    noise = torch.randn((2, len(context), *model.z_shape), generator=generator)
    sources = {"posterior": model.encoder(windows.clips).sample(noise[0]),
               "prior": model.prior(context).sample(noise[1]), "normal": noise[1]}
    out = {"true": float(nearest_frame(future[:, -1], frames).mean())}
    shown = model.shown_to_plan(context, generator)
    for name, z in sources.items():
        out[name] = float(nearest_frame(model.decoder.rollout(context, z, shown=shown)[0][:, -1], frames).mean())
    return out


def probe_network(frames: int, grid: int, codebook_size: int, extra_dim: int, outputs: int) -> StateNetwork:
    """An inverse dynamics probe of fixed size: one ST block over ``frames`` grids and one further grid."""
    config = NetworkConfig(grid, codebook_size, frames, extra_dim, d_model=32, heads=4, ff=64, depth=1,
                           window=min(4, grid), token_dim=32, readout="flatten", readout_channels=8)
    return StateNetwork(config, outputs, gain=1.0)


@dataclass
class ProbeInput:
    """What a probe reads of B windows. Where z ~ N(mean, spread^2) is read, each look draws it anew, as Eq. 5 does."""

    states: dict[str, Tensor]  # each [B, ...]; "extra" holds z's mean
    spread: Tensor | None = None  # z's standard deviation [B, s, s, c]

    def rows(self, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The states at ``index`` int64 [b]."""
        states = {name: x[index] for name, x in self.states.items()}
        if self.spread is not None:
            noise = torch.randn(states["extra"].shape, generator=generator)
            states["extra"] = states["extra"] + self.spread[index] * noise
        return states


def fit_probe(network: nn.Module, inputs: ProbeInput, action: Tensor, steps: int, seed: int) -> None:
    """Regress actions by mean squared error with Adam (batch 64, 2e-3 decayed to zero).

    Every fifth label is held out; of ten points in training the weights with the lowest error on them are kept, so
    that no input is at a disadvantage for being easier to overfit.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    held = torch.arange(len(action)) % 5 == 4
    learn, judge = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
    best, kept = float("inf"), network.state_dict()
    for step in range(1, steps + 1):
        rows = learn[torch.randint(len(learn), (64,), generator=generator)]
        loss = F.mse_loss(network(inputs.rows(rows, generator)), action[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            error = float(probe_errors(network, inputs, action, seed, judge).mean())
            if error < best:
                best, kept = error, {name: x.detach().clone() for name, x in network.state_dict().items()}
    network.load_state_dict(kept)


@torch.no_grad()
def probe_errors(network: nn.Module, inputs: ProbeInput, action: Tensor, seed: int, rows: Tensor | None = None,
                 batch: int = 256) -> Tensor:
    """Squared error of each window of ``rows`` (None: all), mean over the action's dimensions, [B]; z is drawn once."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for part in torch.split(torch.arange(len(action)) if rows is None else rows, batch):
        parts.append(((network(inputs.rows(part, generator)) - action[part]) ** 2).mean(-1))
    return torch.cat(parts)


INPUTS = ("z", "z_mean", "true_future", "context")


@torch.no_grad()
def probe_input(kind: str, model: DynamicsModel, windows: Windows, batch: int = 256) -> ProbeInput:
    """(x, z ~ E), or (x, the posterior's mean), or (x, all l true future frames) as further slots, so that the probe
    sees all that the encoder saw, or x alone."""
    frames = windows.clips.shape[1] if kind == "true_future" else model.config.context_frames
    tokens = windows.clips[:, :frames]
    if kind not in ("z", "z_mean"):
        return ProbeInput({"tokens": tokens, "extra": torch.zeros(len(tokens), *model.z_shape)})
    posteriors = [model.encoder(clips) for clips in torch.split(windows.clips, batch)]
    spread = torch.cat([(0.5 * one.logvar).exp() for one in posteriors])
    return ProbeInput({"tokens": tokens, "extra": torch.cat([one.mean for one in posteriors])},
                      spread if kind == "z" else None)


def fit_input(kind: str, model: DynamicsModel, windows: Windows, codebook_size: int, steps: int,
              seed: int) -> StateNetwork:
    """A probe of one of :data:`INPUTS`; all have the same size."""
    torch.manual_seed(seed)
    inputs = probe_input(kind, model, windows)
    network = probe_network(inputs.states["tokens"].shape[1], model.grid, codebook_size, model.config.z_dim,
                            windows.action.shape[1])
    fit_probe(network, inputs, windows.action, steps, seed)
    return network.eval()


def fit_alignment(model: DynamicsModel, windows: Windows, codebook_size: int, steps: int, seed: int) -> StateNetwork:
    """A probe (x, z ~ E) -> action: L_act (Eq. 5) on a corpus."""
    return fit_input("z", model, windows, codebook_size, steps, seed)


def inverse_dynamics(model: DynamicsModel, align: StateNetwork, train: Windows, test: Windows, codebook_size: int,
                     steps: int = 1000, seed: int = 0, few: tuple[int, ...] = (), draws: int = 3) -> dict[str, Any]:
    """Test error (MSE) of equal probes that read :data:`INPUTS`, and of the mean action.

    ``align`` is the probe of z with all labels, see :func:`fit_alignment`. ``few``: the same with so many labels only,
    mean over ``draws`` of them, at most 25 passes: the online stage sees some hundred labels a round. Differences
    of z and its mean to the true future are paired over test windows, with their 95 % bootstrap intervals.
    """
    read = {kind: probe_input(kind, model, test) for kind in INPUTS}

    def errors(windows: Windows, steps: int, seed: int, networks: dict[str, StateNetwork]) -> dict[str, Tensor]:
        return {kind: probe_errors(networks.get(kind) or fit_input(kind, model, windows, codebook_size, steps, seed),
                                   read[kind], test.action, seed + 1) for kind in INPUTS}

    out: dict[str, Any] = {"mean_action": float(((test.action - train.action.mean(0)) ** 2).mean())}
    out |= _compare(errors(train, steps, seed, {"z": align}))
    generator = torch.Generator().manual_seed(seed)
    for count in few:
        drawn = [errors(train.rows(torch.randperm(len(train.clips), generator=generator)[:count]),
                        min(steps, 25 * count // 64), seed + draw, {}) for draw in range(draws)]
        out[f"labels_{count}"] = _compare({kind: torch.stack([one[kind] for one in drawn]).mean(0) for kind in INPUTS})
    return out


def _compare(errors: dict[str, Tensor]) -> dict[str, float]:
    """Means, and the paired difference of z to the true future."""
    out = {kind: float(values.mean()) for kind, values in errors.items()}
    for kind in ("z", "z_mean"):
        low, high = bootstrap_interval((errors[kind] - errors["true_future"]).double().numpy())
        out |= {f"{kind}_minus_true_future_low": low, f"{kind}_minus_true_future_high": high}
    return out


@torch.no_grad()
def directions(network: StateNetwork, context: Tensor, z: Tensor, windows: Windows) -> Tensor:
    """Cosine [B] between the aligned action's motion (x, y, z) and the direction from the hand to the goal."""
    action = network({"tokens": context, "extra": z})[:, :3]
    return F.cosine_similarity(action, windows.goal_hand - windows.hand)


@torch.no_grad()
def planner_test(model: DynamicsModel, network: StateNetwork, distance: GoalDistance, windows: Windows,
                 candidates: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """Cosines [B] of the action that follows from z*: N candidates with the metric, the first alone, the metric with
    another state's goal (shuffled), the candidate whose action is best (oracle selection), and z ~ E of the true
    future (posterior; its goal is whatever the hand did next, so it bounds alignment, not planning)."""
    config = distance.config.model_copy(update={"candidates": candidates, "selection": "best"})
    generator, m = torch.Generator().manual_seed(seed), model.config.context_frames
    out: dict[str, list[Tensor]] = {name: [] for name in ("n", "one", "shuffled", "oracle_selection", "gain")}
    order = torch.randperm(len(windows.clips), generator=generator)
    for rows in torch.split(torch.arange(len(windows.clips)), 32):
        part = windows.rows(rows)
        context = part.clips[:, :m]
        z = Planner(model, config, distance).candidates(context, generator)
        n = z.shape[1]
        codes, _ = model.decoder.rollout(context.repeat_interleave(n, 0), z.flatten(0, 1),
                                         shown=model.shown_to_plan(context, generator))
        codes = codes.view(len(rows), n, *codes.shape[1:])
        cosine = torch.stack([directions(network, context, z[:, k], part) for k in range(n)], 1)
        at = torch.arange(len(rows))
        score, other = (candidate_distances(distance, codes, goal) for goal in (part.goal, windows.goal[order[rows]]))
        out["n"].append(cosine[at, score.argmin(1)])
        out["one"].append(cosine[:, 0])
        out["shuffled"].append(cosine[at, other.argmin(1)])
        out["oracle_selection"].append(cosine.max(1).values)
        out["gain"].append(1 - score.min(1).values / score.mean(1))
    return {name: torch.cat(parts) for name, parts in out.items()}


def candidate_distances(distance: GoalDistance, codes: Tensor, goal: Tensor) -> Tensor:
    """Eq. 2's distances [B, N] of plans [B, N, l, h, w] to a goal of each state's own, int64 [B, h, w]."""
    frames = codes[:, :, -1:] if distance.config.goal_frames == "last" else codes
    difference = distance.features(frames) - distance.features(goal)[:, None, None]
    return difference.abs().mean((-4, -3, -2, -1))


def bootstrap_interval(difference: np.ndarray, level: float = 0.95, repeats: int = 2000,
                       seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences [B] at ``level``."""
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(len(difference), size=(repeats, len(difference)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

