"""Is the model good before the loop is judged? Offline probes of z and of the planner on held-out windows.

They use a corpus' side file of actions and hand positions, which no learner ever sees.
Shapes: B windows, m context and l future frames, h x w token grid, A action dimensions, N candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.algorithms.ppo.networks import NetworkConfig, StateNetwork
from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.algorithms.pvdr.planner import GoalDistance, Planner


@dataclass
class Windows:
    """Windows of a corpus with the simulator's truth beside them."""

    clips: Tensor  # int64 [B, m + l, h, w]
    action: Tensor  # float32 [B, A], the action at the last context frame, in [-1, 1]
    hand: Tensor  # float32 [B, 3], the hand at the last context frame, metres
    goal: Tensor  # int64 [B, h, w], another frame of the same episode
    goal_hand: Tensor  # float32 [B, 3], the hand in that frame

    def rows(self, index: Tensor) -> Windows:
        """The windows at ``index`` int64 [b]."""
        return Windows(self.clips[index], self.action[index], self.hand[index], self.goal[index], self.goal_hand[index])


def cut_windows(tokens: np.ndarray, action: np.ndarray, hand: np.ndarray, frames: int, context: int, stride: int,
                rng: np.random.Generator, reach: tuple[float, float] = (0.06, 0.4)) -> Windows:
    """Every window of one episode, each with a random frame whose hand is ``reach`` metres away as its goal.

    tokens [F, h, w], action [F, A], hand [F, 3]; windows without such a frame are left out.
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
    return Windows(torch.from_numpy(clips.astype(np.int64)), torch.from_numpy(action[now_index]).float(),
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
    for name, z in sources.items():
        out[name] = float(nearest_frame(model.decoder.rollout(context, z)[0][:, -1], frames).mean())
    return out


def probe_network(frames: int, grid: int, codebook_size: int, extra_dim: int, outputs: int) -> StateNetwork:
    """An inverse dynamics probe of fixed size: one ST block over ``frames`` grids and one further grid."""
    config = NetworkConfig(grid, codebook_size, frames, extra_dim, d_model=32, heads=4, ff=64, depth=1,
                           window=min(4, grid), token_dim=32, readout="flatten", readout_channels=8)
    return StateNetwork(config, outputs, gain=1.0)


def fit_probe(network: nn.Module, states: dict[str, Tensor], action: Tensor, steps: int, seed: int) -> None:
    """Regress actions by mean squared error with Adam (batch 64, 2e-3 decayed to zero)."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(action), (64,), generator=generator)
        loss = F.mse_loss(network({name: x[rows] for name, x in states.items()}), action[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def posterior_samples(model: DynamicsModel, clips: Tensor, seed: int, batch: int = 256) -> Tensor:
    """z ~ E(x, y) [B, s, s, c] for all clips."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for chunk in torch.split(clips, batch):
        posterior = model.encoder(chunk)
        parts.append(posterior.sample(torch.randn(posterior.mean.shape, generator=generator)))
    return torch.cat(parts)


def fit_alignment(model: DynamicsModel, windows: Windows, codebook_size: int, steps: int, seed: int) -> StateNetwork:
    """A probe (x, z ~ E) -> action: L_act (Eq. 5) on a corpus."""
    torch.manual_seed(seed)
    m = model.config.context_frames
    network = probe_network(m, model.grid, codebook_size, model.config.z_dim, windows.action.shape[1])
    states = {"tokens": windows.clips[:, :m], "extra": posterior_samples(model, windows.clips, seed)}
    fit_probe(network, states, windows.action, steps, seed)
    return network.eval()


@torch.no_grad()
def probe_errors(network: StateNetwork, states: dict[str, Tensor], action: Tensor) -> Tensor:
    """Squared error per window, mean over the action's dimensions, [B]."""
    errors: Tensor = ((network(states) - action) ** 2).mean(-1)
    return errors


def inverse_dynamics(model: DynamicsModel, align: StateNetwork, train: Windows, test: Windows, codebook_size: int,
                     steps: int = 1000, seed: int = 0) -> dict[str, float]:
    """Test error (MSE) of equal probes that read (x, z ~ E), (x, all l true future frames), or x alone, and of the
    mean action. The probe of true frames reads them as further slots, so it sees all that the encoder saw.
    ``align`` is the first of them, see :func:`fit_alignment`."""
    m, dim, outputs = model.config.context_frames, model.config.z_dim, train.action.shape[1]
    frames = train.clips.shape[1]
    out = {"mean_action": float(((test.action - train.action.mean(0)) ** 2).mean())}
    states = {"tokens": test.clips[:, :m], "extra": posterior_samples(model, test.clips, seed + 1)}
    out["z"] = float(probe_errors(align, states, test.action).mean())
    for name, count in (("true_future", frames), ("context", m)):
        torch.manual_seed(seed)
        network = probe_network(count, model.grid, codebook_size, dim, outputs)
        blank = torch.zeros(len(train.clips), *model.z_shape)
        fit_probe(network, {"tokens": train.clips[:, :count], "extra": blank}, train.action, steps, seed)
        states = {"tokens": test.clips[:, :count], "extra": blank[:1].expand(len(test.clips), -1, -1, -1)}
        out[name] = float(probe_errors(network.eval(), states, test.action).mean())
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
        codes, _ = model.decoder.rollout(context.repeat_interleave(n, 0), z.flatten(0, 1))
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

