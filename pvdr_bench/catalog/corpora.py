"""Corpora by name: those the package or a plug-in can make, and the user's own clip stores in the data folder."""

from __future__ import annotations

from pathlib import Path

from pvdr_bench.catalog.specs import NAME, CorpusSpec
from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import read_json
from pvdr_bench.runs.paths import data_root


def user_corpora() -> dict[str, CorpusSpec]:
    """Clip stores under ``DATA/videos/NAME/``, whoever made them, with what they say of themselves."""
    folder = data_root() / "videos"
    manifests = sorted(folder.glob("*/*/manifest.json")) if folder.is_dir() else []
    found = {}
    for path in manifests:
        name = path.parent.parent.name
        if NAME.match(name) and name not in found:
            about = _about(path)
            found[name] = CorpusSpec(
                name=name, title=name, kind="user", source=about.get("source", str(folder / name)),
                description="a store of your own", license=about.get("license", ""), citation=about.get("citation", ""))
    return found


def _about(path: Path) -> dict[str, str]:
    try:
        about = read_json(path).get("about", {})
    except (DataError, FileNotFoundError):  # whoever opens the store is told
        return {}
    return {key: text for key, text in about.items() if isinstance(text, str)} if isinstance(about, dict) else {}


def registered() -> dict[str, CorpusSpec]:
    """The corpora of ``videos.sources``."""
    from pvdr_bench.videos.sources import sources

    return {
        source.name: CorpusSpec(name=source.name, title=source.title or source.name, description=source.description,
                                kind=source.kind,
                                source=source.origin or source.maker, license=source.license,
                                citation=source.citation)
        for source in sources()
    }


def corpora() -> dict[str, CorpusSpec]:
    """All corpora by name; a registered one hides a folder of its name, which holds what it made."""
    return {**user_corpora(), **registered()}
