"""The loops that drive every algorithm, evaluation, the goal reward, replay and the stages before a run."""
