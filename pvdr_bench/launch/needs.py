"""Which artefacts runs wait for, and the stage jobs that make them: a tokenizer first, pre-trained models after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.runs.files import content_hash
from pvdr_bench.runs.users import User


@dataclass(frozen=True)
class StageNeed:
    """An artefact that has to be made before some runs can start."""

    key: str  # the same for all runs that need it
    stage: str
    spec: RunSpec  # of one of the runs that need it
    after: str | None  # key of the stage before it; runs need both, and wait for the last of the chain

    @property
    def label(self) -> str:
        """For people."""
        what = self.spec.tokenizer if self.stage == "tokenize" else f"{self.spec.algorithm} on {self.spec.corpus}"
        return f"{self.stage} {what} · {self.spec.scale}"


def tokenizer_key(spec: RunSpec) -> str | None:
    """What all runs with one tokenizer have in common; None for a run without one."""
    if spec.tokenizer is None:
        return None
    return "t" + content_hash([spec.tokenizer, spec.scale, spec.protocol.image_size])


def pretrain_key(spec: RunSpec) -> str | None:
    """What all runs with one pre-trained model have in common; None for a run without one."""
    if "pretrain" not in spec.info.stages or spec.corpus is None:
        return None
    config = {name: spec.config.get(name) for name in ("model", "pretrain")}
    return "p" + content_hash([spec.algorithm, spec.algorithm_version, spec.corpus, spec.scale, spec.pretrain_seed,
                               spec.protocol.image_size, config, tokenizer_key(spec)])


def stage_needs(specs: Sequence[RunSpec]) -> dict[str, StageNeed]:
    """The artefacts that are missing, by key; those that others stand on first."""
    from pvdr_bench.training.stages import Stages

    found: dict[str, StageNeed] = {}
    asked: set[tuple[str | None, str | None]] = set()
    for spec in specs:
        tokenizer, model = tokenizer_key(spec), pretrain_key(spec)
        if (tokenizer, model) in asked:
            continue
        asked.add((tokenizer, model))
        missing = Stages(spec).missing()
        if "tokenize" in missing and tokenizer is not None:
            found.setdefault(tokenizer, StageNeed(tokenizer, "tokenize", spec, None))
        if "pretrain" in missing and model is not None:
            found[model] = StageNeed(model, "pretrain", spec, tokenizer if tokenizer in found else None)
    return dict(sorted(found.items(), key=lambda item: item[1].stage != "tokenize"))


def claim(specs: Sequence[RunSpec], user: User) -> None:
    """Write down that runs will stand on the artefacts which are there, or are known by name, before their jobs start.

    A model whose tokenizer is yet to be made has no name yet: the job that makes it writes down its users.
    """
    from pvdr_bench.training.stages import Stages

    for spec in {(tokenizer_key(spec), pretrain_key(spec)): spec for spec in specs}.values():
        Stages(spec, user=user).claim()


def need_of(spec: RunSpec, needs: Mapping[str, StageNeed]) -> str | None:
    """Key of the missing artefact that a run has to wait for; the last of a chain."""
    for key in (pretrain_key(spec), tokenizer_key(spec)):
        if key in needs:
            return key
    return None
