"""Corpora by name: those the package or a plug-in can make, and the user's own clip stores in the data folder."""

from __future__ import annotations

from pvdr_bench.catalog.specs import NAME, CorpusSpec
from pvdr_bench.runs.paths import data_root


def user_corpora() -> dict[str, CorpusSpec]:
    """Clip stores under ``DATA/videos/NAME/``, whoever made them."""
    folder = data_root() / "videos"
    names = sorted(path.parent.parent.name for path in folder.glob("*/*/manifest.json")) if folder.is_dir() else []
    return {
        name: CorpusSpec(name=name, title=name, kind="user", source=str(folder / name),
                         description="a store of your own")
        for name in dict.fromkeys(names) if NAME.match(name)
    }


def registered() -> dict[str, CorpusSpec]:
    """The corpora of ``videos.sources``."""
    from pvdr_bench.videos.sources import sources

    return {
        source.name: CorpusSpec(name=source.name, title=source.title or source.name, description=source.description,
                                kind="generated" if source.kind == "generated" else "user",
                                source=source.origin or source.maker, license=source.license,
                                citation=source.citation)
        for source in sources()
    }


def corpora() -> dict[str, CorpusSpec]:
    """All corpora by name; a registered one hides a folder of its name, which holds what it made."""
    return {**user_corpora(), **registered()}
