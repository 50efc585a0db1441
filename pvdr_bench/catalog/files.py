"""The YAML files of the catalog by name: each one, and those that it extends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pvdr_bench.catalog import corpora as corpus_table
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.catalog.folders import KINDS, search_roots, yaml_files
from pvdr_bench.catalog.layers import validate_document
from pvdr_bench.catalog.mixture import Share, parse_mixture, split_videos
from pvdr_bench.catalog.problems import unknown
from pvdr_bench.catalog.profile import Profile
from pvdr_bench.catalog.protocol_file import ProtocolFile, check_protocol_keys
from pvdr_bench.catalog.specs import CorpusSpec, TaskSpec
from pvdr_bench.catalog.suites import task_name, tasks_without_file, with_note
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.yaml_documents import Document, Path_, read_document

_OWN = ("name", "title", "extends")  # of a task's file, not inherited


@dataclass
class Files:
    """Methods, tasks, protocols and so on by name; files are read when they are first asked for.

    Args:
        roots: folders with ``methods/`` and ``tasks/``; a name is taken from the first that has it.
    """

    roots: list[Path] = field(default_factory=search_roots)
    _documents: dict[tuple[str, str], Document] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        return {kind: yaml_files(self.roots, kind) for kind in KINDS}

    def files(self, kind: str) -> dict[str, Path]:
        """Name -> file of a kind, see :data:`pvdr_bench.catalog.folders.KINDS`."""
        return self._files[kind]

    def place(self, kind: str, name: str, path: Path_ = ()) -> str:
        """``file:line`` of a key in a name's own file."""
        return self._document(kind, name).where(path)

    def methods(self) -> list[str]:
        """Names of all methods, tokenizers included."""
        return sorted(self._files["methods"])

    def tasks(self) -> list[str]:
        """Names of all tasks: those with a file first, then those that suites have without one."""
        named = sorted(self._files["tasks"])
        return [*named, *sorted(name for name in tasks_without_file() if name not in named)]

    def task_name(self, name: str) -> str:
        """The name of the task that is meant by a file's name, an environment's id, or ``SUITE/`` and a task of it.

        Raises:
            CatalogError: several suites have it.
        """
        return name if name in self._files["tasks"] else task_name(name)

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

    def _line(self, kind: str, name: str) -> dict[str, Document]:
        """A name's file and those that it stands on by ``extends``, the one at the bottom first.

        Raises:
            CatalogError: no such parent, or a file that extends itself.
        """
        names, documents = [name], [self._document(kind, name)]
        while (parent := documents[-1].data.get("extends")) is not None:
            where, others = documents[-1].where(("extends",)), sorted(set(self._files[kind]) - {names[-1]})
            if parent not in others:
                raise unknown(f"{kind[:-1]} in extends of {names[-1]}", str(parent), others, where)
            if parent in names:
                raise CatalogError(f"{kind[:-1]} {parent} extends itself: {' -> '.join([*names, parent])}",
                                   where=documents[names.index(parent)].where(("extends",)),
                                   hint="leave extends out of one of them, and repeat there what it starts from")
            names.append(parent)
            documents.append(self._document(kind, parent))
        return dict(zip(names[::-1], documents[::-1], strict=True))

    def _family(self, kind: str, name: str) -> list[Document]:
        """The files of :meth:`_line`."""
        return list(self._line(kind, name).values())

    def _spec(self, kind: str, name: str, model: type[BaseModel],
              inherited: Mapping[str, Any] | None = None) -> tuple[Any, Document]:
        document = self._document(kind, name)
        written = document.data.get("name", name)
        if written != name:
            raise CatalogError(f"name {written!r} is not the file's ({name!r})", where=document.where(("name",)),
                               hint="leave the key out, or rename the file")
        return validate_document(model, document, f"{kind[:-1]} {name}", {"name": name}, inherited), document

    def task(self, name: str) -> TaskSpec:
        """A task by its name; an environment's id and ``SUITE/NAME`` are the same as ``NAME``.

        Raises:
            CatalogError: no such task, or its file is wrong.
        """
        short = self.task_name(name)
        if short in self._files["tasks"]:
            *parents, _ = self._family("tasks", short)
            inherited = {key: value for one in parents for key, value in one.data.items() if key not in _OWN}
            task: TaskSpec = self._spec("tasks", short, TaskSpec, inherited)[0]
            return with_note(task)
        if found := tasks_without_file().get(short):
            info, facts = found
            return with_note(TaskSpec(suite=info.name, **vars(facts)))
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

    def videos(self, text: str) -> tuple[Share, ...]:
        """The corpora that a text of ``--videos`` names for one run; see :mod:`pvdr_bench.catalog.mixture`.

        Raises:
            UsageError: it is not of the grammar. CatalogError: no such corpus.
        """
        runs = split_videos(text)
        if len(runs) != 1:
            raise UsageError(f"{text!r} are the videos of {len(runs)} runs", where="--videos",
                             hint="join them: bair+jaco-play, or bair,jaco-play:0.5")
        shares = parse_mixture(runs[0])
        for share in shares:
            self.corpus(share.corpus)
            if share.size and not share.size.isdecimal():
                self.corpus(share.size)
            elif share.size and int(share.size) < 1:
                raise UsageError(f"{share.name} leaves no frame", where="--videos")
        return shares

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
            check_protocol_keys(document)
        return ProtocolFile(name, tuple(family))
