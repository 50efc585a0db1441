"""STG: a transformer that learns from videos what comes next, and whose frozen judgement is a reward for PPO."""
