"""A small learner of the kind that searches: it tests replay's columns, priorities and write-back in the real loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.rl.contract import Learner, LearnerContext, Mode, Transition
from pvdr_bench.rl.replay.columns import Column
from pvdr_bench.rl.replay.priorities import PRIORITY, Priorities


def features(image: Tensor) -> Tensor:
    """[N, 48] of uint8 [N, 16, 16, 3]."""
    return nn.functional.avg_pool2d(image.float().permute(0, 3, 1, 2) / 255, 4).flatten(1)


class SearchDummy(Learner):
    """Chooses among actions drawn at every decision, and keeps what a search would: the set, visit counts, a latent.

    It draws by priority inside episodes, and writes priorities, visit counts and latents anew after each update.
    """

    CHOICES, HIDDEN, LENGTH, BATCH = 4, 3, 3, 4

    def __init__(self, context: LearnerContext) -> None:
        self.replay, self.dim = context.replay, context.task.action.dim
        if self.replay is not None:
            self.replay.declare([Column("choices", (self.CHOICES, self.dim)), Column("value"),
                                 Column("visits", (self.CHOICES,), "int16", rewritable=True),
                                 Column("latent", (self.HIDDEN,), rewritable=True)],
                                capacity=40, priorities=Priorities(exponent=0.6))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.encoder = nn.Linear(48 + self.HIDDEN, self.HIDDEN)
            self.scores, self.value = nn.Linear(self.HIDDEN + self.dim, 1), nn.Linear(self.HIDDEN, 1)
        self.modules = nn.ModuleList([self.encoder, self.scores, self.value])
        self.optimizer = torch.optim.SGD(self.modules.parameters(), lr=0.05)
        self.generator = torch.Generator().manual_seed(context.seed)
        self.steps = 0

    def initial(self, n: int) -> Any:
        return {"latent": torch.zeros(n, self.HIDDEN)}

    def _encode(self, image: Tensor, latent: Tensor) -> Tensor:
        return torch.tanh(self.encoder(torch.cat([features(image), latent], 1)))

    def _search(self, latent: Tensor, choices: Tensor) -> Tensor:
        """Visit counts int16 [N, K] of a search that spends 20 simulations by the policy's probabilities."""
        return (20 * self._logits(latent, choices).softmax(1)).round().to(torch.int16)

    def _logits(self, latent: Tensor, choices: Tensor) -> Tensor:
        return self.scores(torch.cat([latent[:, None].expand(-1, self.CHOICES, -1), choices], 2))[..., 0]

    @torch.no_grad()
    def act(self, image: Tensor, is_first: Tensor, carry: Any, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Any, dict[str, Tensor]]:
        latent = self._encode(image, carry["latent"] * (~is_first)[:, None])
        choices = 2 * torch.rand(len(image), self.CHOICES, self.dim, generator=generator) - 1
        visits = self._search(latent, choices)
        chosen = torch.multinomial(visits.float() + 0.1, 1, generator=generator)[:, 0]
        extras = {"choices": choices, "visits": visits, "latent": latent, "value": self.value(latent)[:, 0]}
        return choices[torch.arange(len(image)), chosen], {"latent": latent}, extras

    def observe(self, transition: Transition) -> None:
        self.steps += 1

    def learn(self) -> dict[str, float]:
        if self.steps < 4:
            return {}
        draw = self.replay.draw(self.generator, self.BATCH, self.LENGTH, "padded", prioritised=True)
        data = self.replay.read(draw.positions, self.LENGTH, before=1, padded=True)
        latent, image = data["latent"][:, 0], data["image"][:, 1]
        latent = self._encode(image, latent * data["inside"][:, :1])
        target = (data["reward"] * data["inside"])[:, 2:].sum(1)
        error = self.value(latent)[:, 0] - target
        logits, shares = self._logits(latent, data["choices"][:, 1]), data["visits"][:, 1].float() + 0.1
        policy = -(logits.log_softmax(1) * shares / shares.sum(1, keepdim=True)).sum(1)
        loss = (draw.weights(0.4) * (0.01 * error.square() + policy)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            again = self._encode(image, data["latent"][:, 0] * data["inside"][:, :1])
            self.replay.write(draw.positions, "latent", again)
            self.replay.write(draw.positions, "visits", self._search(again, data["choices"][:, 1]))
            self.replay.write(draw.positions, PRIORITY, error.abs() + 1e-3)
        return {"loss": float(loss.detach()), "probability": float(draw.probability.mean()),
                "old_values": float(data["value"].mean())}

    def state_dict(self) -> dict[str, Any]:
        return {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.steps = int(state["steps"])
