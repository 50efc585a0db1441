"""Shared reinforcement learning: the contract, actor and critic on tokens, PPO, replay, the process group."""
