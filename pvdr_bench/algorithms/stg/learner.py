"""STG's online stage: the benchmark's PPO; a frozen state-to-go transformer adds to its rewards after each roll-out."""

from __future__ import annotations

from dataclasses import replace

from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.algorithms.stg.networks import STGModel
from pvdr_bench.algorithms.stg.reward import StateToGoReward
from pvdr_bench.errors import SetupError
from pvdr_bench.rl.contract import LearnerContext
from pvdr_bench.tokenizer.interface import FrameTokenizer


class STGLearner(PPOLearner):
    """PPO of the part ``ppo`` of an :class:`STGConfig`, from scratch, on tokens; only its reward sees STG's embeddings.

    Args:
        context, tokenizer: as of :class:`PPOLearner`.

    Raises:
        SetupError: the pre-trained artefact or the tokenizer is missing, or its critic has collapsed.
        CatalogError: pictures smaller than ``model.input_size``, or networks that do not fit the token grid.
    """

    def __init__(self, context: LearnerContext, tokenizer: FrameTokenizer | None = None) -> None:
        config: STGConfig = context.config
        config.check_image(context.task.observation.height)
        if "pretrain" not in context.artefacts:
            raise SetupError("STG's reward is a pre-trained model (stage pretrain), and there is none",
                             hint="run it with pvdr-bench run, which makes the stage first")
        model = STGModel(config.model)
        model.load_state_dict(context.artefacts["pretrain"])
        reward = StateToGoReward(model, config.reward, context.task.num_envs, context.device)
        super().__init__(replace(context, config=config.ppo), tokenizer, reward)
