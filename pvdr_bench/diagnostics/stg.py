"""``bench stg``: does STG's frozen model tell true transitions from false ones, and forwards from backwards?

On held-out episodes of its corpus; the same numbers of an untrained model stand beside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pvdr_bench.algorithms.stg.config import STGConfig
from pvdr_bench.algorithms.stg.measures import judged
from pvdr_bench.algorithms.stg.networks import STGModel
from pvdr_bench.progress import tell
from pvdr_bench.rl.config import config_as
from pvdr_bench.suites.registry import DEFAULT_CORPUS
from pvdr_bench.videos.layout import HELDOUT


def measure(scale: str = "cpu", corpus: str = DEFAULT_CORPUS, method: str = "stg", clips: int = 256,
            untrained: bool = True, seed: int = 0) -> dict[str, Any]:
    """Judge the artefact that ``method`` uses; it is made first if it is not there.

    Args:
        clips: held-out ones, drawn by ``seed``. untrained: judge a model of random weights as well.

    Returns:
        auc: how often the critic's part of the reward of a true transition is above that of one with the next frame of
        another moment. time_forward: share of pairs of frames whose distance is larger in their order in time. The
        others: see :func:`~pvdr_bench.algorithms.stg.measures.judged`. untrained: the same of random weights.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.training.stages import Stages

    torch.set_num_threads(1)
    stages = Stages(load_catalog().resolve(method, "reach", 0, scale, videos=corpus))
    config = config_as(STGConfig, stages.config)
    artefact = stages.artefact("pretrain")
    drawn = stages.clips(corpus).draw(np.random.default_rng(seed), clips, config.model.context + 1,
                                      config.pretrain.frame_stride, HELDOUT)
    frames, start = torch.from_numpy(drawn.frames), torch.from_numpy(drawn.start)
    tell("models", 0, 1 + untrained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = STGModel(config.model).eval()
    out: dict[str, Any] = {"method": method, "corpus": corpus, "scale": scale, "artefact": artefact.hash,
                           "clips": clips}
    random = judged(model, frames, start, torch.device("cpu"), seed) if untrained else None
    tell("models", 1, 1 + untrained)
    model.load_state_dict(artefact.weights())
    out |= judged(model, frames, start, torch.device("cpu"), seed)
    tell("models", 1 + untrained, 1 + untrained)
    return out if random is None else {**out, "untrained": random}
