"""The catalog: all YAML by name, and the one place where a run is resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog.files import Files
from pvdr_bench.catalog.layers import Layers
from pvdr_bench.catalog.mixture import Share, mixture_name
from pvdr_bench.catalog.problems import OVERRIDE, Problem, SettingsError, unknown
from pvdr_bench.catalog.protocol import DEFAULT_PROTOCOL, Protocol
from pvdr_bench.catalog.resolve import (
    PROTOCOL_PREFIX,
    budget_problems,
    find_key,
    format_value,
    join_label,
    method_layers,
    place_in_config,
    scales_of,
    short_name,
    split_override,
    split_variant,
    typed_value,
    value_at,
)
from pvdr_bench.catalog.scales import SCALES, Scale
from pvdr_bench.catalog.specs import MethodSpec, RunSpec, TaskSpec
from pvdr_bench.catalog.suites import defaults_of, suite_of
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.suites.registry import DEFAULT_SUITE
from pvdr_bench.words import nearest
from pvdr_bench.yaml_documents import Document, Path_

if TYPE_CHECKING:
    from pvdr_bench.rl.config import AlgorithmConfig

_INHERITED = ("algorithm", "paper", "tuning", "tokenizer", "videos", "pretrain_seeds")  # config and scales apart


@dataclass(frozen=True)
class Config:
    """A method's resolved config, and where each value came from."""

    method: MethodSpec  # with what it inherits filled in
    variant: str
    value: AlgorithmConfig  # frozen
    layers: Layers


@dataclass
class Catalog(Files):
    """Methods, tasks, protocols and corpora by name, and the runs that they make."""

    _whole: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False, compare=False)
    _chains: dict[str, list[tuple[MethodSpec, Document]]] = field(default_factory=dict, init=False, repr=False,
                                                                  compare=False)

    def protocol_layers(self, name: str, scale: str, suite: str = DEFAULT_SUITE, where: str | None = None) -> Layers:
        """The settings of a protocol at a scale, with their places, before they are checked.

        Args:
            suite: of the task: its version is part of what a number means. where: the place of that name.
        """
        layers = self.protocol_file(name).layers(scale)
        layers.data.setdefault("suite_version", suite_of(suite, where).version())
        return layers

    def protocol(self, name: str = DEFAULT_PROTOCOL, scale: str = "cpu", suite: str = DEFAULT_SUITE) -> Protocol:
        """A protocol at a scale, for tasks of a suite.

        Raises:
            CatalogError: no such protocol or scale, or its file is wrong.
        """
        layers = self.protocol_layers(name, scale, suite)
        self._check_all("protocol", name, self.protocol_problems)
        return layers.validate(Protocol, f"protocol {name} at scale {scale}")

    def protocol_problems(self, name: str) -> list[Problem]:
        """What is wrong with a protocol at any of its scales."""
        every = [self.protocol_layers(name, scale).check(Protocol, f"protocol {name} at scale {scale}")
                 for scale in self.protocol_file(name).scales]
        return [problem for found in every if isinstance(found, tuple) for problem in found]

    def _check_all(self, kind: str, name: str, problems: Callable[[str], list[Problem]]) -> None:
        """A file is right at all its scales, or it is not used at any: nobody finds out after a month. Done once."""
        if (kind, name) not in self._whole:
            if found := problems(name):
                raise SettingsError(found)
            self._whole.add((kind, name))

    def method(self, name: str) -> MethodSpec:
        """A method with what it inherits filled in; its ``config`` and ``scales`` are its own only.

        Raises:
            CatalogError: no such method or parent, one that extends itself, an unknown algorithm.
        """
        return self._chain(name)[-1][0]

    def _chain(self, name: str) -> list[tuple[MethodSpec, Document]]:
        """A method and all that it stands on, the one at the bottom first; each with what it inherits. Made once."""
        if name not in self._chains:
            self._chains[name] = self._make_chain(name)
        return list(self._chains[name])

    def _make_chain(self, name: str) -> list[tuple[MethodSpec, Document]]:
        if name not in self._files["methods"]:
            raise unknown("method", name, self.methods())
        chain: list[tuple[MethodSpec, Document]] = []
        for each in self._line("methods", name):
            self._check_keys(each)
            spec, document = self._spec("methods", each, MethodSpec)
            if chain:
                given, parent = spec.model_fields_set, chain[-1][0]
                spec = spec.model_copy(update={key: getattr(parent, key) for key in _INHERITED if key not in given})
            chain.append((spec, document))
        if spec.algorithm is None:
            raise CatalogError(f"method {name} has neither algorithm nor extends", where=document.file,
                               hint=f"known algorithms: {', '.join(registry.algorithms())}")
        if spec.algorithm in (broken := registry.broken_algorithms()):
            raise broken[spec.algorithm]
        if spec.algorithm not in registry.algorithms():
            raise unknown("algorithm", spec.algorithm, registry.algorithms(), document.where(("algorithm",)))
        return [*chain[:-1], (spec.model_copy(update={"title": spec.title or name}), document)]

    def _check_keys(self, method: str) -> None:
        """A hyperparameter that stands beside ``config`` in a method's file, and not in it, gets a hint of its own."""
        document = self._document("methods", method)
        allowed = [key for key in MethodSpec.model_fields if key != "name"]
        strange = [key for key in document.data if key not in MethodSpec.model_fields]
        schema = self._schema(document) if strange else None
        for key in strange:
            place = place_in_config(key, schema) if schema is not None else None
            near = nearest(key, allowed)
            if place is not None and (near is None or f"{{{key}: " in place):
                raise CatalogError(
                    f"unknown key {key!r} of method {method}", where=document.where((key,)),
                    hint=f"hyperparameters belong under config: did you mean {place}? allowed: {', '.join(allowed)}")

    def _schema(self, document: Document) -> type[BaseModel] | None:
        """The config of a method's algorithm, its own or its parent's; None where the file names none that exists."""
        parent = document.data.get("extends")
        if "algorithm" not in document.data and isinstance(parent, str) and parent in self._files["methods"]:
            return self._schema(self._document("methods", parent))
        info = registry.algorithms().get(str(document.data.get("algorithm")))
        schema: type[BaseModel] | None = registry.load_object(info.config) if info is not None else None
        return schema

    def config(self, method: str, scale: str, task_set: str | None = None, overrides: Sequence[str] = ()) -> Config:
        """A method's config at a scale; ``overrides`` are texts ``key=value`` of config keys.

        Raises:
            CatalogError, UsageError: anything that does not fit the algorithm's schema.
        """
        name, inline = split_variant(method)
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        chain = self._chain(name)
        spec = chain[-1][0]
        schema, what = _schema_of(spec)
        self._check_all("method", name, self.method_problems)
        layers = method_layers(chain, scale, task_set)
        before = layers.validate(schema, what)
        changed: list[Path_] = []
        for text in (*inline, *overrides):
            key, value = split_override(text)
            path = find_key(key, schema, what)
            layers.set(path, typed_value(value, schema, path), f"{OVERRIDE}{key}")
            changed.append(path)
        after = layers.validate(schema, what) if changed else before
        old, new = before.model_dump(), after.model_dump()
        label = {short_name(path, schema): format_value(value_at(new, path)) for path in changed
                 if value_at(old, path) != value_at(new, path)}
        return Config(spec, join_label(name, list(label.items())), after, layers)

    def method_problems(self, name: str) -> list[Problem]:
        """What is wrong with a method's settings at any scale, for any hyperparameter set.

        Raises:
            CatalogError: it is not even a method; see :meth:`method`.
        """
        chain = self._chain(name)
        schema, what = _schema_of(chain[-1][0])
        found: list[Problem] = []
        for scale in SCALES:
            line = scales_of(chain, scale)
            sections = [spec.scales[each] for spec, _ in chain for each in line if each in spec.scales]
            for task_set in (None, *dict.fromkeys(key for section in sections for key in section.sets)):
                checked = method_layers(chain, scale, task_set).check(schema, what)
                found += checked if isinstance(checked, tuple) else ()
            found += budget_problems(chain, scale)
        return list(dict.fromkeys(found))

    def resolve(self, method: str, task: str, seed: int, scale: str = "cpu", protocol: str | None = None,
                videos: str | None = None, overrides: Sequence[str] = ()) -> RunSpec:
        """One run, fully resolved. Overrides that begin with ``protocol.`` change the protocol, the others the method.

        Protocol, videos and tokenizer are those of the task's suite where none are named.

        Raises:
            CatalogError, UsageError: unknown names or keys, wrong values, or a pair that cannot work.
        """
        texts = [text for text in overrides if not text.strip().startswith(PROTOCOL_PREFIX)]
        protocol_texts = [text.strip() for text in overrides if text.strip().startswith(PROTOCOL_PREFIX)]
        task_spec = self.task(task)
        usual = defaults_of(suite_of(task_spec.suite, self.task_place(task_spec.name, "suite")))
        protocol = protocol or usual.protocol
        config = self.config(method, scale, task_spec.set, texts)
        info = registry.algorithms()[config.method.algorithm or ""]
        if info.learner is None:
            raise UsageError(f"{config.method.name} is no method to run in a task: its algorithm {info.name} has the "
                             f"stages {', '.join(info.stages)} only",
                             hint=f"methods that run: {', '.join(self.runnable())}")
        self._check_set(task_spec, config.method.name)
        chosen, changes = self._run_protocol(protocol, scale, config.method.name, task_spec, protocol_texts)
        shares = self.videos(videos or usual.corpus)
        corpus = mixture_name(shares) if wants_videos(info, config.value) else None
        label = scale if protocol == usual.protocol else f"{protocol}-{scale}"
        tokenizer = config.method.tokenizer or usual.tokenizer
        code_reward = (chosen.goal_metric or "").startswith("code")
        return RunSpec(
            method=config.method.name, variant=config.variant, title=config.method.title, tuning=config.method.tuning,
            algorithm=info.name, algorithm_version=info.version, config=config.value.recipe(),
            tokenizer=tokenizer if info.needs or code_reward else None,
            tokenizer_corpora=self._tokenizer_corpora(tokenizer, shares) if info.needs and corpus else (),
            task=task_spec, corpus=corpus, pretrain_seed=seed % config.method.pretrain_seeds if corpus else 0,
            scale=cast(Scale, scale), scale_label=join_label(label, changes), protocol=chosen, seed=seed,
        )

    def _tokenizer_corpora(self, tokenizer: str, shares: Sequence[Share]) -> tuple[str, ...]:
        """What a tokenizer learns from beside the corpora that its file names; (): nothing."""
        own = self.method(tokenizer).videos
        return tuple(share.name for share in shares if share.corpus not in own)

    def _check_set(self, task: TaskSpec, method: str) -> None:
        """A task's hyperparameter set is one of the method's, where the method has any, at whatever scale."""
        sections = [section for spec, _ in self._chain(method) for section in spec.scales.values()]
        known = sorted({name for section in sections for name in section.sets})
        if task.set is not None and known and task.set not in known:
            raise unknown(f"hyperparameter set of method {method}", task.set, known, self.task_place(task.name, "set"))

    def _run_protocol(self, name: str, scale: str, method: str, task: TaskSpec,
                      texts: Sequence[str]) -> tuple[Protocol, list[tuple[str, str]]]:
        """The protocol with the method's budget and ``-o protocol.key=value``, and what of its meaning changed."""
        what = f"protocol {name} at scale {scale}"
        self.protocol(name, scale)
        layers = self.protocol_layers(name, scale, task.suite, self.task_place(task.name, "suite"))
        layers.data["suite_version"] = suite_of(task.suite).version_of(task.options)
        chain = self._chain(method)
        for spec, document in chain:
            for each in scales_of(chain, scale):
                if each in spec.scales:
                    layers.add(spec.scales[each].protocol, document, ("scales", each, "protocol"))
        before = layers.validate(Protocol, what)
        changed: list[str] = []
        for text in texts:
            key, value = split_override(text)
            path = find_key(key.removeprefix(PROTOCOL_PREFIX), Protocol, what, PROTOCOL_PREFIX)
            if path[0] in ("name", "scale", "suite_version"):
                raise UsageError(f"protocol.{path[0]} cannot be set with -o", hint="use --protocol and --scale")
            layers.set(path, typed_value(value, Protocol, path), f"{OVERRIDE}{key}")
            changed.append(path[0])
        after = layers.validate(Protocol, what) if changed else before
        meaning = Protocol.keys("meaning")
        labels = {key: format_value(getattr(after, key)) for key in changed
                  if key in meaning and getattr(after, key) != getattr(before, key)}
        return after, list(labels.items())

    def runnable(self) -> list[str]:
        """Methods with an online stage."""
        known = registry.algorithms()
        return [name for name in self.methods() if known[self.method(name).algorithm or ""].learner is not None]


def _schema_of(spec: MethodSpec) -> tuple[type[AlgorithmConfig], str]:
    """The schema of a method's config, and what it is called in messages."""
    assert spec.algorithm is not None
    schema: type[AlgorithmConfig] = registry.load_object(registry.algorithms()[spec.algorithm].config)
    return schema, f"method {spec.name} (algorithm {spec.algorithm})"


def wants_videos(info: registry.AlgorithmInfo, config: AlgorithmConfig) -> bool:
    """Whether a run of this config stands on a corpus of its own choice: a stage that it uses learns from one."""
    used = config.stages_used(tuple(stage.name for stage in info.offline))
    return any(stage.name in used and not stage.own_videos for stage in info.offline)


def load_catalog() -> Catalog:
    """The catalog of this machine; see :func:`pvdr_bench.catalog.folders.search_roots`."""
    return Catalog()

