"""Every hyperparameter of PVDR with its meaning and source. Imports no torch.

Defaults are the published ones (arXiv 2411.03169, Tables 2 and 3), or, where the paper is silent, the reading
named in ``source``; "departure" marks a form that the paper does not have, off by default.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from pvdr_bench.rl.config import AlgorithmConfig, Schedule, Section, check_divides, key, schedule_from


class ModelConfig(Section):
    """The visual dynamics model: encoder E, prior P, decoder D."""

    context_frames: int = key(2, "m, frames of context x_t", "paper Table 2", ge=1)
    future_frames: int = key(6, "l, frames of future y_t", "paper Table 2", ge=1)
    frame_stride: int = key(1, "decisions between neighbouring frames of a clip", "paper: 1; departure if more", ge=1)
    d_model: int = key(512, "attention dimension", "paper Table 2", ge=8)
    ff: int = key(512, "feed-forward dimension", "paper Table 2", ge=8)
    heads: int = key(4, "attention heads", "paper Table 2", ge=1)
    token_dim: int = key(1024, "width of the learned token embedding, projected to d_model", "paper Table 2", ge=1)
    encoder_depth: int = key(6, "pairs of spatial and temporal blocks in E", "paper Table 2; pairs: Fig. 9", ge=1)
    prior_depth: int = key(6, "pairs of blocks in P", "paper: same structure as E (Fig. 8)", ge=1)
    decoder_depth: int = key(3, "pairs of blocks in D", "paper Table 2", ge=1)
    window: int = key(4, "side of the temporal attention's local window", "paper Table 2", ge=1)
    z_grid: int = key(16, "side of z; a divisor of the token grid (smaller: pooled)", "paper Table 2: the token grid")
    z_dim: int = key(32, "channels of z", "paper Table 2", ge=1)
    z_readout: Literal["last", "mean"] = key("last", "slot of E and P that mean and variance are read from",
                                             "paper Fig. 8 only; reading 15")
    z_every_slot: bool = key(False, "also add the projected z to every slot of D", "departure: z is used sooner")
    copy_gate: bool = key(False, "add gate * onehot(previous token) to D's logits", "departure: copying is free")
    init_logvar: float = key(0.0, "initial log-variance of E and P", "paper silent: 0; departure if lower")

    def check_grid(self, grid: int) -> None:
        """Refuse a token grid of a side that the model cannot work on.

        Raises:
            CatalogError: window or z_grid do not divide it.
        """
        check_divides("model.window", self.window, grid)
        check_divides("model.z_grid", self.z_grid, grid)


class PretrainConfig(Section):
    """Stage ``pretrain``: Eq. 1 on a corpus."""

    steps: int = key(350_000, "optimiser steps", "paper Table 2", ge=1)
    batch: int = key(128, "clips in a batch", "paper Table 2 prints 1025: read as 1024 frames (reading 3)", ge=1)
    micro_batch: int = key(0, "clips at a time in memory, online also decisions; 0: the whole batch",
                           "memory only, same gradients", ge=0)
    lr: float = key(1e-4, "Adam's learning rate", "paper Table 2", gt=0)
    warmup_steps: int = key(0, "steps of linear warm-up of the learning rate", "paper silent: none", ge=0)
    lr_final: float = key(1.0, "learning rate at the end as a share of lr (cosine)", "paper silent: constant", ge=0)
    max_grad_norm: float = key(0.0, "clip of the global gradient norm; 0: none", "paper silent: none", ge=0)
    lambda1: float = key(1e-3, "weight of KL(E || N(0, I)), Eq. 1", "paper Table 2", ge=0)
    lambda1_start: float | None = key(None, "lambda1 at step 0, geometric to lambda1; of a lower lambda1 lambda1 "
                                      "itself", "departure: annealing")
    lambda1_anneal: int = key(0, "steps over which lambda1 is annealed", "departure: annealing", ge=0)
    prior_weight: float = key(1.0, "weight of KL(P || sg E), Eq. 1", "paper Eq. 1", ge=0)
    prior_kl: Literal["prior_posterior", "posterior_prior"] = key(
        "prior_posterior", "direction of the prior's KL, here and in Eq. 4: KL(P || sg E), or KL(sg E || P)",
        "paper Eqs. 1 and 4; departure: posterior_prior, whose prior covers all futures")
    encoder_prior_weight: float = key(0.0, "weight of KL(E || sg P), which pulls E to P; annealed as lambda1",
                                      "departure: the bottleneck charges only what the context does not tell", ge=0)
    reduction: Literal["sum", "mean"] = key("sum", "of CE over tokens and KL over dimensions; mean over the batch",
                                            "paper silent: true ELBO (reading 11)")
    validate_every: int = key(5000, "steps between validations", "paper silent", ge=1)
    validation_clips: int = key(512, "held-out clips in a validation", "paper silent", ge=1)
    dtype: Literal["float32", "bfloat16"] = key("float32", "autocast precision", "hardware")
    compile: bool = key(False, "torch.compile the model", "hardware")

    @field_validator("lambda1_start")
    @classmethod
    def _only_rises(cls, value: float | None, info: ValidationInfo) -> float | None:
        """A variant with a lower lambda1 is not annealed from above: z is to be used first, and compressed then."""
        return None if value is None else min(value, info.data.get("lambda1", value))


class PlannerConfig(Section):
    """Planning-based inference, Eq. 2."""

    candidates: int = key(16, "N, candidates z ~ P per decision", "paper silent (reading 1)", ge=1)
    metric: Literal["code_l1", "code_l1_blur", "code_l1_pyramid", "pixel_l1"] = key(
        "code_l1", "space of the distance between plan and goal in Eqs. 2 and 6; of Eq. 4: goal_term_metric",
        "paper: compressed grids (reading 6); departures: the others")
    goal_term_metric: Literal["code_l1", "code_l1_blur", "code_l1_pyramid"] | None = key(
        None, "space of the goal term's distance in Eq. 4, which needs a gradient and so is one of codes; "
        "normalise_distance divides it by the start-to-goal distance in this space. None: that of metric; under "
        "pixel_l1 code_l1, and with normalise_distance it must be told",
        "paper: that of Eq. 2 (reading 6); departure: another", added=True)
    blur: int = key(3, "window of code_l1_blur in grid cells, odd; of code_l1_pyramid the largest of 1, 3, ...",
                    "departure", ge=1)
    goal_frames: Literal["all", "last"] = key("all", "frames of the plan compared with the goal",
                                              "paper: the sum over frames (reading 5)")
    selection: Literal["best", "first"] = key("best", "take the best candidate, or the first: no planning",
                                              "paper Eq. 2; first is the ablation 'random z'")
    z_source: Literal["prior", "normal"] = key("prior", "distribution of the candidates", "paper Algorithm 1")
    z_star: Literal["drawn", "read_back"] = key(
        "drawn", "what the action module reads of the chosen plan: the z that it was decoded from, or the mean of "
        "E(z | x, plan), as L_act then reads it of true frames: one function of frames for both",
        "paper Algorithm 1: the z that was drawn; departure: read_back")
    replan_every: int = key(
        1, "decisions of an episode for which z* and its plan stand; a buffer begins with new ones. Each of them bears "
        "the error of Eq. 6 of that plan, against the future of the decision at which it was made",
        "paper Algorithm 1: planned at every decision; departure if more", ge=1)

    @property
    def codes_of_goal_term(self) -> Literal["code_l1", "code_l1_blur", "code_l1_pyramid"]:
        """The space of Eq. 4's distance."""
        return self.goal_term_metric or ("code_l1" if self.metric == "pixel_l1" else self.metric)


class OnlineConfig(Section):
    """Algorithm 1: rounds of collecting and learning."""

    e1_decisions: int = key(1000, "decisions in buffer E1 per round, all environments; 0: no fine-tuning",
                            "paper silent: 4 episodes (reading 28)", ge=0)
    e1_first: int = key(0, "decisions in the very first E1, if more than e1_decisions: alignment before the first plan "
                        "is followed", "paper Algorithm 1: all alike; departure if more", ge=0)
    e2_decisions: int = key(1000, "decisions in buffer E2 per round, all environments", "as e1_decisions", ge=1)
    finetune_lr: float = key(1e-5, "learning rate of E's head, D and P", "paper Table 2", gt=0)
    finetune_epochs: int = key(1, "passes over E1 per round", "paper silent", ge=1)
    finetune_batch: int = key(32, "clips in a fine-tuning batch", "paper silent", ge=1)
    lambda2: float = key(0.8, "weight of the goal term in Eq. 4", "paper Table 2 (Meta-World)", ge=0)
    lambda3: float = key(1.0, "weight of the plan error in Eq. 6", "paper Table 2 (Meta-World)", ge=0)
    lact_weight: float = key(1.0, "weight of L_act (Eq. 5) beside the PPO loss", "paper: jointly (reading 22)", ge=0)
    rl_weight: float = key(1.0, "weight of the PPO loss; 0: the ablation without it", "paper ablation", ge=0)
    distance_scale: float = key(1.0, "constant c on mean distances of Eq. 4 and Eq. 6", "reading 10", gt=0)
    normalise_distance: bool = key(False, "divide the distances of Eq. 4 and Eq. 6, each by its own from start to goal",
                                   "paper silent; goes with the protocol's normalise_distance")
    lact_target: Literal["action", "stride_mean", "plan_mean"] = key(
        "action", "what L_act predicts: the executed action, or the mean action on the way to the first plan frame "
        "or to the last", "paper Eq. 5; departures: stride_mean, the same with frame_stride 1, and plan_mean")
    lact_e1_epochs: int = key(0, "passes of L_act alone (without lact_weight) over E1 as well, after fine-tuning; a "
                              "guide learns in these and in lact_e2_epochs alone",
                              "paper Algorithm 1: E2 only; departure if more", ge=0)
    lact_e2_epochs: int = key(0, "passes of L_act alone (without lact_weight) over E2, after PPO's; so a guide learns "
                              "from every decision", "paper Algorithm 1: L_act on E2, beside PPO; departure: by itself",
                              ge=0, added=True)
    e1_play: Literal["policy", "noise"] = key(
        "policy", "actions in E1: the action module's with its noise, or that noise around zero, so that L_act learns "
        "from frames what an action did, and not what the policy does there",
        "paper Algorithm 1: the policy's; departure: noise")
    e1_log_std: float | None = key(None, "log standard deviation of the action noise in E1; none: the policy's own",
                                   "paper Algorithm 1: the policy's; departure: a spread of E1's own", ge=-5, le=2,
                                   added=True)
    e1_correlation: float = key(0.0, "correlation in time of the action noise in E1 (AR(1), same spread)",
                                "paper silent: white noise; departure if more", ge=0, lt=1)
    e2_correlation: float = key(0.0, "the same in E2; PPO's ratio stays that of the marginals",
                                "paper silent; departure if more (coloured noise in PPO, arXiv 2312.11091)", ge=0, lt=1)
    lact_replay: int = key(0, "decisions of past buffers whose labels are kept, and drawn from by lact_e1_epochs "
                           "(and lact_e2_epochs); "
                           "0: of the buffer alone", "paper Algorithm 1: the round's own; departure if more", ge=0)
    lact_lr: float = key(4e-5, "learning rate of L_act's own optimiser, which a guide has", "paper Table 2", gt=0)
    lact_decay: float = key(0.0, "weight decay of that optimiser (AdamW)",
                             "paper silent: none; departure if more", ge=0)
    pi_form: Literal["joint", "guided", "taught"] = key(
        "joint", "the action module: one network, trained by PPO and L_act; or with a guide beside it that L_act alone "
        "trains: guided, the sum of the guide's action, which stands as long as its plan, and PPO's correction; "
        "taught, one network that PPO trains and that the guide teaches after E1 and, at first, in E2",
        "paper Eq. 5: jointly; departures: guided and taught, in which neither loss undoes the other's progress "
        "(kickstarting, arXiv 1803.03835)")
    guide_action: Literal["best", "trend"] = key(
        "best", "the guide's action: for the best plan; or by regression of all candidates' actions on their distances "
        "to the goal, the change that the best one's distance predicts", "paper Eq. 2: the best; departure: trend")
    guide_gain: float = key(1.0, "factor on the guide's action", "paper: 1; departure if another", gt=0)
    teach_epochs: int = key(0, "pi_form taught: passes over the plans made in E1, in which the action module learns "
                            "the guide's action for them", "departure", ge=0)
    teach_lr: float = key(1e-3, "learning rate of these passes", "departure", gt=0)
    teach_log_std: float | None = key(None, "log standard deviation of actions after the lessons of every E1; none: as "
                                      "it is", "departure", ge=-5, le=2)
    teach_plans: Literal["played", "tuned"] = key(
        "played", "plans of the lessons: those that E1 was played with, or, in the same states, of the model as Eqs. 3 "
        "and 4 then left it", "departure, as the lessons are; tuned is as E2 plans", added=True)
    teach_weight: float = key(0.0, "pi_form taught: weight of the guide's lesson beside the PPO loss, at the beginning",
                              "departure", ge=0)
    teach_decisions: int = key(2000, "decisions of E2 over which that weight falls to 0, linearly", "departure", ge=1)
    guide_reads: Literal["z", "plan"] = key(
        "z", "what the guide reads beside the context: z*, as the action module does, or the last plan frame, by a "
        "small convolutional network on code vectors", "paper Eq. 5: z*; departure: plan")
    guide_pairs: Literal["ends", "all"] = key(
        "ends", "pairs of frames that a guide which reads plans learns from: the decision's and its last plan frame; "
        "or any two of them, and then the action that goes that way within a plan's length, so that near ends are near",
        "paper Eq. 5: the plan of the decision; departure: all", added=True)
    lact_form: Literal["mse", "l2"] = key("mse", "Eq. 5 on the mean action: mean squared error, or the L2 norm",
                                          "reading 21")
    pi_depth: int = key(3, "pairs of blocks in the action module and critic", "paper Table 2", ge=1)
    pi_d_model: int = key(512, "width of the action module and critic", "paper Table 2", ge=8)
    pi_heads: int = key(4, "attention heads of the action module and critic", "paper Table 2", ge=1)
    pi_ff: int = key(512, "feed-forward width of the action module and critic", "paper Table 2", ge=8)
    readout: Literal["mean_pool", "flatten"] = key("mean_pool", "how the action module reads its tokens",
                                                   "paper silent (reading 20)")
    readout_channels: int = key(16, "channels of each token with readout flatten", "departure", ge=1)
    embedding: Literal["learned", "codes"] = key(
        "learned", "token embedding of the action module: a learned table, or the tokenizer's frozen code vectors",
        "paper Table 2; departure: codes, which tell at once which codes are alike")
    log_std_init: float = key(-0.5, "initial log standard deviation of actions", "paper silent (reading 19)")
    eval_std: float | None = key(
        None, "standard deviation of actions in evaluation; 0: their mean; null: the policy's",
        "paper silent (reading 36: the mean); departure: the policy's, as of all methods here", ge=0, added=True)
    actor_lr: float = key(3e-4, "learning rate of the action module", "paper Table 3", gt=0)
    critic_lr: float = key(1e-3, "learning rate of the critic", "paper Table 3", gt=0)
    gamma: float = key(0.99, "discount per decision", "paper Table 3", ge=0, le=1)
    gae_lambda: float = key(0.92, "GAE's lambda", "paper Table 3", ge=0, le=1)
    clip: float = key(0.2, "PPO's clip range", "paper Table 3 (Set 2; 0.6 Set 1, 0.5 Set 3)", gt=0)
    value_clip: float = key(10.0, "clip range of the value", "paper Table 3, reading 24", gt=0)
    value_coef: float = key(0.5, "weight of the value loss", "paper Table 3, reading 24", ge=0)
    value_scale: float = key(1.0, "unit of the returns that the critic predicts", "paper: 1; departure if more", gt=0)
    entropy_coef: float = key(2e-4, "weight of the entropy", "paper Table 3 (Set 2)", ge=0)
    max_grad_norm: float = key(1.0, "clip of the gradient norm", "paper Table 3", gt=0)
    epochs: int = key(4, "PPO passes over E2 per round", "paper silent (reading 23)", ge=1)
    minibatch: int = key(100, "decisions in a PPO minibatch", "paper Table 3", ge=1)
    dtype: Literal["float32", "bfloat16"] = key("float32", "autocast precision of planning", "hardware")


class PVDRConfig(AlgorithmConfig):
    """PVDR (arXiv 2411.03169)."""

    pretrained: bool = key(True, "start from the pre-trained model; False: random weights ('w/o pre-training')",
                           "paper sec. 5")
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    planner: PlannerConfig = PlannerConfig()
    online: OnlineConfig = OnlineConfig()

    @model_validator(mode="after")
    def _fits(self) -> PVDRConfig:
        if self.model.d_model % self.model.heads:
            raise ValueError(f"model.d_model {self.model.d_model} is not a multiple of model.heads {self.model.heads}")
        if self.online.guide_action == "trend" and self.online.guide_reads != "plan":
            raise ValueError("online.guide_action trend needs online.guide_reads plan")
        self._check_lessons(self.online)
        self._check_guide(self.online)
        if self.planner.metric == "pixel_l1" and self.online.normalise_distance and not self.planner.goal_term_metric:
            raise ValueError("planner.metric pixel_l1 with online.normalise_distance needs planner.goal_term_metric: "
                             "Eq. 4 compares codes, and its unit is their distance from start to goal")
        if self.planner.blur % 2 == 0:
            raise ValueError(f"planner.blur must be odd, not {self.planner.blur}")
        if self.planner.blur == 1 and "code_l1_pyramid" in (self.planner.metric, self.planner.goal_term_metric):
            raise ValueError("code_l1_pyramid with planner.blur 1 is code_l1; 3 or more")
        return self

    @staticmethod
    def _check_guide(online: OnlineConfig) -> None:
        e1 = online.e1_decisions or online.e1_first
        if online.guide_pairs == "all" and (online.pi_form == "joint" or online.guide_reads != "plan"
                                            or online.lact_target != "plan_mean"):
            raise ValueError("online.guide_pairs all needs a guide (online.pi_form guided or taught) with "
                             "online.guide_reads plan and online.lact_target plan_mean")
        if online.guide_pairs == "all" and not (online.lact_e2_epochs or (online.lact_e1_epochs and e1)):
            raise ValueError("online.guide_pairs all needs online.lact_e1_epochs with an E1, or online.lact_e2_epochs, "
                             "in which the guide learns")
        if online.e1_log_std is not None and not e1:
            raise ValueError("online.e1_log_std needs an E1: online.e1_decisions or online.e1_first")
        if online.lact_e2_epochs and online.pi_form == "taught" and not (
                online.teach_weight or (online.teach_epochs and online.e1_decisions)):
            raise ValueError("online.lact_e2_epochs with online.pi_form taught needs lessons after E2: "
                             "online.teach_weight, or online.teach_epochs with online.e1_decisions")

    @staticmethod
    def _check_lessons(online: OnlineConfig) -> None:
        lessons = online.teach_epochs or online.teach_weight
        if lessons and online.pi_form != "taught":
            raise ValueError("online.teach_epochs and online.teach_weight need online.pi_form taught")
        if lessons and not (online.lact_e1_epochs and (online.e1_decisions or online.e1_first)):
            raise ValueError("online.teach_epochs and online.teach_weight need online.lact_e1_epochs and an E1, in "
                             "which the guide learns what it teaches")
        if (online.teach_log_std is not None or online.teach_plans != "played") and not online.teach_epochs:
            raise ValueError("online.teach_log_std and online.teach_plans need online.teach_epochs")

    @property
    def lact_decisions(self) -> int:
        """Decisions whose mean action L_act predicts."""
        first, last = self.model.frame_stride, self.model.frame_stride * self.model.future_frames
        return {"action": 1, "stride_mean": first, "plan_mean": last}[self.online.lact_target]

    def schedule(self, stage: str) -> Schedule:
        """Clips of context and future."""
        if stage != "pretrain":
            return super().schedule(stage)
        model = self.model
        return schedule_from(self.pretrain, model.context_frames + model.future_frames, model.frame_stride,
                             length_key="model.future_frames", beside=model.context_frames)

    def check_grid(self, grid: int) -> None:
        """Refuse a token grid of a side that the model cannot work on; see :meth:`ModelConfig.check_grid`."""
        self.model.check_grid(grid)
