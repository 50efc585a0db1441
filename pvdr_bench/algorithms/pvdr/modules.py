"""The networks of PVDR's online stage: the dynamics model, the action module and critic under PPO, and the guide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PVDRConfig
from pvdr_bench.algorithms.pvdr.guide import FramesGuide, Guide, GuidedActor
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, dynamics_model
from pvdr_bench.rl.actor_critic import MEAN_GAIN, Actor, Critic, NetworkConfig, StateNetwork, standardised
from pvdr_bench.rl.ppo import PPOUpdater
from pvdr_bench.tokenizer.frozen import Tokenizer


@dataclass
class Modules:
    """What learns online."""

    model: DynamicsModel
    ppo: PPOUpdater  # of the action module and the critic
    guide: Guide | None  # where ``pi_form`` has one


def build(config: PVDRConfig, tokenizer: Tokenizer, action_dim: int, device: torch.device, seed: int,
          weights: Mapping[str, Tensor] | None) -> Modules:
    """Networks of ``config`` on a device.

    Args:
        weights: the pre-trained dynamics model's; None: random ones, from torch's global generator, as all others.
        seed: of PPO's minibatch order.
    """
    online, grid, size = config.online, tokenizer.grid, tokenizer.codebook_size
    model = dynamics_model(config, size, grid, tokenizer)
    if weights is not None:
        model.load_state_dict(weights)
    model.to(device)
    network = NetworkConfig(grid, size, config.model.context_frames, config.model.z_dim, online.pi_d_model,
                            online.pi_heads, online.pi_ff, online.pi_depth, config.model.window,
                            token_dim=config.model.token_dim, readout=online.readout,
                            readout_channels=online.readout_channels)
    codes = standardised(tokenizer.codebook) if online.embedding == "codes" else None
    kind = GuidedActor if online.pi_form == "guided" else Actor
    actor = kind(network, action_dim, online.log_std_init, codes).to(device)
    critic = Critic(network, codes, value_scale=online.value_scale).to(device)
    ppo = PPOUpdater(actor, critic, online, seed, micro_batch=config.pretrain.micro_batch)
    return Modules(model, ppo, _guide(config, network, tokenizer, codes, action_dim, device))


def _guide(config: PVDRConfig, network: NetworkConfig, tokenizer: Tokenizer, codes: Tensor | None, action_dim: int,
           device: torch.device) -> Guide | None:
    online = config.online
    if online.pi_form == "joint":
        return None
    if online.guide_reads == "z":
        return Guide(StateNetwork(network, action_dim, MEAN_GAIN, codes).to(device), online)
    table = standardised(tokenizer.embed(torch.arange(tokenizer.codebook_size, device=device)))
    return Guide(FramesGuide(table, tokenizer.grid, action_dim).to(device), online)
