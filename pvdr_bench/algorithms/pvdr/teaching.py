"""``pi_form`` taught: the action module learns from the guide what its plans ask for, and PPO takes it from there.

What a guide says of plans is noisy, one plan from the next. A network that has to say it for many states says the part
that they have in common. Who knows the way needs a steadier hand than play has: after the lessons the spread of actions
is set anew (``teach_log_std``). Beside PPO the lesson's weight falls to 0 (kickstarting, Schmitt et al., arXiv
1803.03835).

Shapes: B states, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.config import OnlineConfig
from pvdr_bench.algorithms.pvdr.finetuning import pieces
from pvdr_bench.algorithms.pvdr.guide import Guide
from pvdr_bench.nets.optimizers import clip_gradients, require_finite
from pvdr_bench.rl.rollout import Batch, State

ASKED = 64  # states at a time whose plans the guide is asked about
HELD_OUT = 0.1  # last share of the states, by which the lessons are judged


def lesson_error(actor: nn.Module, state: State, action: Tensor) -> Tensor:
    """Squared error [B] of the actor's mean against the guide's action [B, A], mean over its dimensions."""
    error: Tensor = ((actor(state).mean - action) ** 2).mean(-1)
    return error


def teach(actor: nn.Module, guide: Guide, state: State, config: OnlineConfig, generator: torch.Generator,
          micro_batch: int = 0) -> dict[str, float]:
    """``teach_epochs`` passes over states [B, ...] with their plans, with an optimiser of their own; then the spread of
    actions is that of ``teach_log_std``.

    Args:
        micro_batch: states at a time in memory, with the same gradients; 0: a whole minibatch.

    Metrics: the error on the states held out, before and after, and that of the mean action.

    Raises:
        TrainingError: the loss is not finite.
    """
    action = torch.cat([guide.action({name: x[rows] for name, x in state.items()})
                        for rows in torch.split(torch.arange(len(state["tokens"])), ASKED)])
    learned = len(action) - max(1, round(HELD_OUT * len(action)))
    if not config.teach_epochs or not learned:
        return {}
    seen = {name: state[name] for name in ("tokens", "extra")}
    rest = {name: x[learned:] for name, x in seen.items()}
    optimizer = torch.optim.Adam(actor.parameters(), lr=config.teach_lr, eps=1e-5)
    before = _mean_error(actor, rest, action[learned:], micro_batch)
    for _ in range(config.teach_epochs):
        order = torch.randperm(learned, generator=generator).to(action.device)
        for rows in order.tensor_split(max(1, round(learned / config.minibatch))):
            optimizer.zero_grad(set_to_none=True)
            for part in torch.split(rows, micro_batch or len(rows)):
                error = lesson_error(actor, {name: x[part] for name, x in seen.items()}, action[part]).mean()
                require_finite({"lesson": error}, "the lessons of the guide")
                torch.autograd.backward(len(part) / len(rows) * error)
            clip_gradients(actor.parameters(), config.max_grad_norm)
            optimizer.step()
    if config.teach_log_std is not None:
        with torch.no_grad():
            actor.get_parameter("log_std").fill_(config.teach_log_std)
    constant = ((action[learned:] - action[:learned].mean(0)) ** 2).mean()
    return {"lesson_before": before, "lesson_after": _mean_error(actor, rest, action[learned:], micro_batch),
            "lesson_constant": float(constant), "lesson_norm": float(action.norm(dim=-1).mean())}


@torch.no_grad()
def _mean_error(actor: nn.Module, state: State, action: Tensor, micro_batch: int) -> float:
    parts = [lesson_error(actor, {name: x[rows] for name, x in state.items()}, action[rows])
             for rows in pieces(len(action), micro_batch)]
    return float(torch.cat(parts).mean())


def lesson_weight(config: OnlineConfig, rounds: int) -> float:
    """Weight of the lesson beside PPO after ``rounds`` buffers E2: it falls linearly over ``teach_decisions``."""
    if config.pi_form != "taught":
        return 0.0
    return config.teach_weight * max(0.0, 1 - rounds * config.e2_decisions / config.teach_decisions)


def lesson(actor: nn.Module, weight: float) -> Callable[[Batch], Callable[[Tensor], Tensor]]:
    """``weight`` times the lesson of a PPO minibatch, by rows of it, with the guide's action at each decision."""

    def loss(batch: Batch) -> Callable[[Tensor], Tensor]:
        def part(rows: Tensor) -> Tensor:
            state = {name: batch.state[name][rows] for name in ("tokens", "extra")}
            return weight * lesson_error(actor, state, batch.state["guide"][rows]).sum() / len(batch)

        return part

    return loss
