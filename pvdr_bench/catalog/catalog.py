"""The catalog: all YAML by name, and the one place where a run is resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from pvdr_bench.algorithms import registry
from pvdr_bench.catalog import corpora as corpus_table
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.catalog.folders import KINDS, search_roots, yaml_files
from pvdr_bench.catalog.layers import Layers, nearest, unknown, validate_document
from pvdr_bench.catalog.metaworld_names import NAMES as METAWORLD
from pvdr_bench.catalog.profile import Profile
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.catalog.resolve import (
    PROTOCOL_PREFIX,
    find_key,
    format_value,
    join_label,
    method_layers,
    place_in_config,
    short_name,
    split_override,
    typed_value,
    value_at,
)
from pvdr_bench.catalog.specs import (
    DEFAULT_PROTOCOL,
    SCALES,
    CorpusSpec,
    MethodSpec,
    RunSpec,
    Scale,
    TaskSpec,
)
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.yaml_documents import Document, Path_, read_document

_INHERITED = ("algorithm", "paper", "tuning", "tokenizer", "pretrain_seeds")  # config and scales are merged apart
_PROTOCOL_FILE_KEYS = ("extends", "title", "description", "source", "base", "scales")
_OWN = ("name", "title", "extends")  # of a task's file, not inherited


@dataclass(frozen=True)
class Config:
    """A method's resolved config, and where each value came from."""

    method: MethodSpec  # with what it inherits filled in
    variant: str
    value: Any  # the algorithm's frozen pydantic config
    layers: Layers


@dataclass(frozen=True)
class ProtocolFile:
    """A protocol's YAML, and the one that it extends, before a scale is chosen."""

    name: str
    family: tuple[Document, ...]  # parent (if any) first

    @property
    def document(self) -> Document:
        """Its own file."""
        return self.family[-1]

    @property
    def title(self) -> str:
        """Name in figures and tables."""
        return str(self.document.data.get("title", self.name))

    @property
    def description(self) -> str:
        """What it measures."""
        return next((str(one.data["description"]) for one in self.family[::-1] if "description" in one.data), "")

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the scales it has."""
        return tuple(dict.fromkeys(scale for one in self.family for scale in one.data.get("scales") or {}))


@dataclass
class Catalog:
    """Methods, tasks, protocols and corpora by name; files are read when they are first asked for.

    Args:
        roots: folders with ``methods/`` and ``tasks/``; a name is taken from the first that has it.
    """

    roots: list[Path] = field(default_factory=search_roots)
    _documents: dict[tuple[str, str], Document] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        return {kind: yaml_files(self.roots, kind) for kind in KINDS}

    def methods(self) -> list[str]:
        """Names of all methods, tokenizers included."""
        return sorted(self._files["methods"])

    def tasks(self) -> list[str]:
        """Names of all tasks: those with a file first, then every other Meta-World v3 task."""
        named = sorted(self._files["tasks"])
        return [*named, *sorted(name for name in METAWORLD if name not in named)]

    def protocols(self) -> list[str]:
        """Names of all protocols."""
        return sorted(self._files["protocols"])

    def corpora(self) -> list[str]:
        """Names of all corpora."""
        return sorted(corpus_table.corpora())

    def _document(self, kind: str, name: str) -> Document:
        if (kind, name) not in self._documents:  # a grid of a thousand runs asks for the same few files
            self._documents[kind, name] = read_document(self._files[kind][name])
        return self._documents[kind, name]

    def _family(self, kind: str, name: str) -> list[Document]:
        """The files of a name and of the one it extends, parent (if any) first.

        Raises:
            CatalogError: no such parent, or two levels of extends.
        """
        document, what = self._document(kind, name), kind[:-1]
        parent = document.data.get("extends")
        if parent is None:
            return [document]
        where, others = document.where(("extends",)), sorted(set(self._files[kind]) - {name})
        if parent not in others:
            raise unknown(f"{what} in extends of {name}", str(parent), others, where)
        above = self._document(kind, parent)
        if further := above.data.get("extends"):
            raise CatalogError(f"{what} {name} extends {parent}, which extends {further}", where=where,
                               hint=f"one level only: extend {further}, and repeat what {parent} changes")
        return [above, document]

    def _spec(self, kind: str, name: str, model: type[BaseModel],
              inherited: Mapping[str, Any] | None = None) -> tuple[Any, Document]:
        document = self._document(kind, name)
        written = document.data.get("name", name)
        if written != name:
            raise CatalogError(f"name {written!r} is not the file's ({name!r})", where=document.where(("name",)),
                               hint="leave the key out, or rename the file")
        return validate_document(model, document, f"{kind[:-1]} {name}", {"name": name}, inherited), document

    def task(self, name: str) -> TaskSpec:
        """A task by its name; ``reach-v3`` is the same as ``reach``.

        Raises:
            CatalogError: no such task, or its file is wrong.
        """
        short = name.removesuffix("-v3")
        if short in self._files["tasks"]:
            *parents, _ = self._family("tasks", short)
            inherited = {key: value for one in parents for key, value in one.data.items() if key not in _OWN}
            task: TaskSpec = self._spec("tasks", short, TaskSpec, inherited)[0]
            return task
        if short in METAWORLD:
            return TaskSpec(name=short, title=short.replace("-", " ").capitalize(), suite="metaworld",
                            env_id=f"{short}-v3", source="Meta-World v3")
        raise unknown("task", name, self.tasks())

    def task_place(self, name: str, key: str) -> str:
        """``file:line`` of a key of a task, inherited or its own; ``task.key`` where it has no file."""
        if name not in self._files["tasks"]:
            return f"task.{key}"
        family = self._family("tasks", name)
        return next((one for one in family[::-1] if key in one.data), family[-1]).where((key,))

    def corpus(self, name: str) -> CorpusSpec:
        """A corpus by its name.

        Raises:
            CatalogError: no such corpus.
        """
        known = corpus_table.corpora()
        if name not in known:
            raise unknown("corpus", name, known)
        return known[name]

    def profiles(self) -> list[str]:
        """Names of all cluster profiles."""
        return sorted(self._files["profiles"])

    def profile(self, name: str) -> Profile:
        """A cluster profile by its name.

        Raises:
            CatalogError: no such profile, or its file is wrong.
        """
        if name not in self._files["profiles"]:
            raise unknown("profile", name, self.profiles())
        profile: Profile = self._spec("profiles", name, Profile)[0]
        return profile

    def experiments(self) -> list[str]:
        """Names of all experiments."""
        return sorted(self._files["experiments"])

    def experiment(self, name: str) -> Experiment:
        """An experiment by its name.

        Raises:
            CatalogError: no such experiment, or its file is wrong.
        """
        if name not in self._files["experiments"]:
            raise unknown("experiment", name, self.experiments())
        experiment: Experiment = self._spec("experiments", name, Experiment)[0]
        return experiment

    def protocol_file(self, name: str) -> ProtocolFile:
        """A protocol's file; titles and scales.

        Raises:
            CatalogError: no such protocol, or a key that does not belong there.
        """
        if name not in self._files["protocols"]:
            raise unknown("protocol", name, self.protocols())
        family = self._family("protocols", name)
        for document in family:
            _check_protocol_keys(document)
        return ProtocolFile(name, tuple(family))

    def protocol_layers(self, name: str, scale: str) -> Layers:
        """The settings of a protocol at a scale, with their places, before they are checked."""
        found = self.protocol_file(name)
        if scale not in found.scales:
            raise unknown(f"scale of protocol {name}", scale, found.scales, found.document.file)
        layers = Layers(file=found.document.file)
        for document in found.family:
            layers.add(document.data.get("base") or {}, document, ("base",))
            layers.add((document.data.get("scales") or {}).get(scale) or {}, document, ("scales", scale))
        layers.set(("name",), name, found.document.file)
        layers.set(("scale",), scale, found.document.file)
        layers.data.setdefault("suite_version", _suite_version())
        return layers

    def protocol(self, name: str = DEFAULT_PROTOCOL, scale: str = "cpu") -> Protocol:
        """A protocol at a scale.

        Raises:
            CatalogError: no such protocol or scale, or its file is wrong.
        """
        return self.protocol_layers(name, scale).validate(Protocol, f"protocol {name} at scale {scale}")

    def method(self, name: str) -> MethodSpec:
        """A method with what it inherits filled in; its ``config`` and ``scales`` are its own only.

        Raises:
            CatalogError: no such method or parent, two levels of extends, an unknown algorithm.
        """
        return self._chain(name)[-1][0]

    def _chain(self, name: str) -> list[tuple[MethodSpec, Document]]:
        """Parent (if any) and method, parent first."""
        if name not in self._files["methods"]:
            raise unknown("method", name, self.methods())
        self._check_keys(name)
        spec, document = self._spec("methods", name, MethodSpec)
        chain: list[tuple[MethodSpec, Document]] = []
        if len(self._family("methods", name)) > 1:
            assert spec.extends is not None
            self._check_keys(spec.extends)
            parent, parent_document = self._spec("methods", spec.extends, MethodSpec)
            given = spec.model_fields_set
            inherited = {key: getattr(parent, key) for key in _INHERITED if key not in given}
            spec = spec.model_copy(update=inherited)
            chain.append((parent, parent_document))
        if spec.algorithm is None:
            raise CatalogError(f"method {name} has neither algorithm nor extends", where=document.file,
                               hint=f"known algorithms: {', '.join(registry.algorithms())}")
        if spec.algorithm not in registry.algorithms():
            raise unknown("algorithm", spec.algorithm, registry.algorithms(), document.where(("algorithm",)))
        return [*chain, (spec.model_copy(update={"title": spec.title or name}), document)]

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
            document = self._document("methods", parent)
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
        assert spec.algorithm is not None
        schema: type[BaseModel] = registry.load_object(registry.algorithms()[spec.algorithm].config)
        what = f"method {name} (algorithm {spec.algorithm})"
        for member, document in chain:
            self._check_sections(member, document)
        layers = method_layers(chain, scale, task_set)
        before = layers.validate(schema, what)
        changed: list[Path_] = []
        for text in (*inline, *overrides):
            key, value = split_override(text)
            path = find_key(key, schema, what)
            layers.set(path, typed_value(value, schema, path), f"-o {key}")
            changed.append(path)
        after = layers.validate(schema, what) if changed else before
        old, new = before.model_dump(), after.model_dump()
        label = {short_name(path, schema): format_value(value_at(new, path)) for path in changed
                 if value_at(old, path) != value_at(new, path)}
        return Config(spec, join_label(name, list(label.items())), after, layers)

    def _check_sections(self, spec: MethodSpec, document: Document) -> None:
        """A method may set budget keys of the protocol only, never what a number means."""
        allowed = Protocol.keys("means")
        for scale, section in spec.scales.items():
            for key in section.protocol:
                if key not in allowed:
                    where = document.where(("scales", scale, "protocol", key))
                    raise unknown(f"budget key in method {spec.name}", key, allowed, where)

    def resolve(self, method: str, task: str, seed: int, scale: str = "cpu", protocol: str = DEFAULT_PROTOCOL,
                videos: str | None = None, overrides: Sequence[str] = ()) -> RunSpec:
        """One run, fully resolved. Overrides that begin with ``protocol.`` change the protocol, the others the method.

        Raises:
            CatalogError, UsageError: unknown names or keys, wrong values, or a pair that cannot work.
        """
        texts = [text for text in overrides if not text.strip().startswith(PROTOCOL_PREFIX)]
        protocol_texts = [text.strip() for text in overrides if text.strip().startswith(PROTOCOL_PREFIX)]
        task_spec = self.task(task)
        config = self.config(method, scale, task_spec.set, texts)
        info = registry.algorithms()[config.method.algorithm or ""]
        if info.learner is None:
            raise UsageError(f"{config.method.name} is no method to run in a task: its algorithm {info.name} has the "
                             f"stages {', '.join(info.stages)} only",
                             hint=f"methods that run: {', '.join(self.runnable())}")
        self._check_set(task_spec, config.method.name)
        chosen, changes = self._run_protocol(protocol, scale, config.method.name, protocol_texts)
        corpus = self.corpus(videos or corpus_table.DEFAULT_CORPUS).name if wants_videos(info, config.value) else None
        if videos is not None and corpus is None:
            self.corpus(videos)
        label = scale if protocol == DEFAULT_PROTOCOL else f"{protocol}-{scale}"
        code_reward = (chosen.goal_metric or "").startswith("code")
        return RunSpec(
            method=config.method.name, variant=config.variant, title=config.method.title, tuning=config.method.tuning,
            algorithm=info.name, algorithm_version=info.version, config=config.value.model_dump(mode="json"),
            tokenizer=config.method.tokenizer if info.needs_tokenizer or code_reward else None,
            task=task_spec, corpus=corpus, pretrain_seed=seed % config.method.pretrain_seeds if corpus else 0,
            scale=cast(Scale, scale), scale_label=join_label(label, changes), protocol=chosen, seed=seed,
        )

    def _check_set(self, task: TaskSpec, method: str) -> None:
        """A task's hyperparameter set is one of the method's, where the method has any, at whatever scale."""
        sections = [section for spec, _ in self._chain(method) for section in spec.scales.values()]
        known = sorted({name for section in sections for name in section.sets})
        if task.set is not None and known and task.set not in known:
            raise unknown(f"hyperparameter set of method {method}", task.set, known, self.task_place(task.name, "set"))

    def _run_protocol(self, name: str, scale: str, method: str,
                      texts: Sequence[str]) -> tuple[Protocol, list[tuple[str, str]]]:
        """The protocol with the method's budget and ``-o protocol.key=value``, and what of its meaning changed."""
        what = f"protocol {name} at scale {scale}"
        layers = self.protocol_layers(name, scale)
        for spec, document in self._chain(method):
            section = spec.scales.get(scale)  # type: ignore[call-overload]
            if section is not None:
                layers.add(section.protocol, document, ("scales", scale, "protocol"))
        before = layers.validate(Protocol, what)
        changed: list[str] = []
        for text in texts:
            key, value = split_override(text)
            path = find_key(key.removeprefix(PROTOCOL_PREFIX), Protocol, what)
            if path[0] in ("name", "scale", "suite_version"):
                raise UsageError(f"protocol.{path[0]} cannot be set with -o", hint="use --protocol and --scale")
            layers.set(path, typed_value(value, Protocol, path), f"-o {key}")
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


def _check_protocol_keys(document: Document) -> None:
    """Refuse keys and shapes that a protocol's file cannot have; its settings are checked once a scale is chosen."""
    for key, value in document.data.items():
        if key not in (*_PROTOCOL_FILE_KEYS, "name"):
            raise unknown("key of a protocol", key, _PROTOCOL_FILE_KEYS, document.where((key,)))
        if key in ("base", "scales") and not isinstance(value, dict):
            raise CatalogError(f"{key} must be a mapping", where=document.where((key,)))
    for scale, section in (document.data.get("scales") or {}).items():
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES, document.where(("scales", scale)))
        if not isinstance(section or {}, dict):
            raise CatalogError(f"scales.{scale} must be a mapping", where=document.where(("scales", scale)))


def split_variant(name: str) -> tuple[str, tuple[str, ...]]:
    """``pvdr@lambda1=1e-2,x=3`` -> (``pvdr``, its overrides)."""
    base, at, changes = name.partition("@")
    if not at:
        return name, ()
    inside: list[str] = []
    for part in changes.split(","):
        if "=" in part or not inside:
            inside.append(part)
        else:
            inside[-1] += f",{part}"
    return base, tuple(inside)


def wants_videos(info: registry.AlgorithmInfo, config: Any) -> bool:
    """Whether a run of this config stands on a corpus: its algorithm needs one, and ``pretrained`` is not off."""
    return info.needs_videos and bool(getattr(config, "pretrained", True))


def _suite_version() -> str:
    """The installed environments' package, such as ``metaworld 3.1.1``; part of what a number means."""
    try:
        return f"metaworld {version('metaworld')}"
    except PackageNotFoundError:
        return "metaworld (not installed)"


def load_catalog() -> Catalog:
    """The catalog of this machine; see :func:`pvdr_bench.catalog.folders.search_roots`."""
    return Catalog()

