"""The graph of the stages that a run stands on, read from what algorithms declare. Imports no torch.

A run's own algorithm declares stages, and so does the algorithm of the method that it names as ``tokenizer``. Nothing
here, nor in those who make or submit stages, knows one by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvdr_bench.algorithms.registry import AlgorithmInfo, Stage, algorithms
from pvdr_bench.catalog.mixture import Share, mixture_name, parse_mixture
from pvdr_bench.catalog.problems import unknown
from pvdr_bench.errors import CatalogError
from pvdr_bench.runs.files import content_hash

if TYPE_CHECKING:
    from pvdr_bench.catalog.catalog import Catalog
    from pvdr_bench.catalog.specs import MethodSpec, RunSpec
    from pvdr_bench.rl.config import AlgorithmConfig


@dataclass(frozen=True)
class StageNode:
    """One artefact that a run stands on, and what it is made of.

    Attributes:
        method: whose config it has. shares: the videos that it learns from.
        needs: the nodes of ``stage.needs``, in that order. added: of the shares, those that the method's file does not
            name: of a tokenizer, the run's own.
    """

    stage: Stage
    info: AlgorithmInfo
    method: str
    config: AlgorithmConfig
    shares: tuple[Share, ...]
    seed: int
    scale: str
    image_size: int
    needs: tuple[StageNode, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that it learns from."""
        return tuple(share.corpus for share in self.shares)

    @property
    def name(self) -> str:
        """The artefact's, before its hash: ``tokenizer-cpu``, ``pvdr-fetch-push-cpu``."""
        return f"{self._what('-', '+')}-{self.scale}"

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.stage.name} {self._what(' on ', ', ')} · {self.scale}"

    def _what(self, on: str, and_: str) -> str:
        """The method or algorithm, with the videos that are not always the same."""
        if self.stage.own_videos:
            return self.method + (on + and_.join(self.added) if self.added else "")
        return self.info.name + on + mixture_name(self.shares)

    @property
    def key(self) -> str:
        """The same for all runs that need this artefact; known before those it needs are made."""
        videos = [[share.name, share.weight] for share in self.shares]
        return content_hash([self.stage.name, self.info.name, self.info.version, self.own_config(), videos, self.seed,
                             self.scale, self.image_size, [need.key for need in self.needs]])

    def own_config(self) -> dict[str, Any]:
        """The part of the config that the artefact depends on."""
        data = self.config.recipe()
        return {name: data[name] for name in self.stage.sections if name in data} if self.stage.sections else data

    def recipe(self, corpus: Callable[[str], Mapping[str, Any]], weights: Mapping[str, str],
               frames: Callable[[Share], int]) -> dict[str, Any]:
        """All that determines the artefact, as plain JSON data.

        Args:
            corpus: gives a corpus' recipe. weights: checksums of the weights of needed stages, by stage.
            frames: gives the number of training frames that a share with a size is matched to.
        """
        videos: dict[str, Any] = {"corpora": {share.corpus: corpus(share.corpus) for share in self.shares}}
        if not self.stage.own_videos and len(self.shares) == 1:
            videos = {"corpus": corpus(self.shares[0].corpus)}
        if sizes := {share.corpus: frames(share) for share in self.shares if share.size}:
            videos["train_frames"] = sizes
        if mixed := {share.corpus: share.weight for share in self.shares if share.weight is not None}:
            videos["weights"] = mixed
        return {"stage": self.stage.name, "algorithm": self.info.name, "version": self.info.version,
                "config": self.own_config(), "image_size": self.image_size, "seed": self.seed, **videos,
                **{need.stage.makes: weights[need.stage.name] for need in self.needs}}


def stage_graph(spec: RunSpec, catalog: Catalog) -> tuple[StageNode, ...]:
    """The stages that a run stands on, each after those it needs.

    Raises:
        CatalogError: a stage needs one that neither the algorithm nor the method's tokenizer declares, or that the
            config leaves out; or a stage with videos of its own whose method names none.
    """
    nodes: dict[str, StageNode] = {}
    if spec.tokenizer is not None:
        shared = catalog.config(spec.tokenizer, spec.scale)
        info = algorithms()[shared.method.algorithm or ""]
        for stage in info.offline:
            shares = _own_videos(shared.method, stage, catalog, spec.tokenizer_corpora)
            _add(nodes, StageNode(stage, info, spec.tokenizer, shared.value, shares, 0, spec.scale,
                                  spec.protocol.image_size, _needs(stage, nodes, spec.tokenizer),
                                  spec.tokenizer_corpora))
    config = spec.config_object()
    used = config.stages_used(tuple(stage.name for stage in spec.info.offline))
    for stage in (stage for stage in spec.info.offline if stage.name in used):
        own = catalog.method(spec.method) if stage.own_videos else None
        shares = (_own_videos(own, stage, catalog) if own is not None
                  else parse_mixture(spec.corpus) if spec.corpus else ())
        _add(nodes, StageNode(stage, spec.info, spec.method, config, shares, spec.pretrain_seed, spec.scale,
                              spec.protocol.image_size, _needs(stage, nodes, spec.method)))
    if missing := [name for name in spec.info.needs if name not in nodes]:
        raise CatalogError(f"algorithm {spec.algorithm} needs the stage {missing[0]}, and no method that it names has "
                           "it", where="tokenizer", hint="name a method whose algorithm declares it")
    return tuple(nodes.values())


def _add(nodes: dict[str, StageNode], node: StageNode) -> None:
    if node.stage.name in nodes:
        methods = f"{nodes[node.stage.name].method} and {node.method}"
        raise CatalogError(f"two stages of one run are called {node.stage.name}: of {methods}",
                           hint="stages of one run need names of their own")
    nodes[node.stage.name] = node


def _needs(stage: Stage, nodes: Mapping[str, StageNode], method: str) -> tuple[StageNode, ...]:
    for name in stage.needs:
        if name not in nodes:
            raise unknown(f"stage that {stage.name} of method {method} needs", name, nodes)
    return tuple(nodes[name] for name in stage.needs)


def _own_videos(method: MethodSpec, stage: Stage, catalog: Catalog, added: tuple[str, ...] = ()) -> tuple[Share, ...]:
    """The corpora that a method's file names for a stage that all its runs share.

    With others ``added`` to them, clips are drawn from each corpus alike: by their numbers of clips, a large foreign
    corpus would leave next to nothing of the tasks' own pictures.
    """
    if not method.videos:
        raise CatalogError(f"method {method.name} names no videos for its stage {stage.name}", where="videos",
                           hint=f"videos: [{', '.join(catalog.corpora())}]")
    own = tuple(Share(catalog.corpus(name).name) for name in method.videos)
    if not added:
        return own
    return tuple(Share(share.corpus, share.size, 1.0) for share in (*own, *(parse_mixture(name)[0] for name in added)))
