"""The built-in corpora, and the user's own: clip stores found under the data folder."""

from __future__ import annotations

from pvdr_bench.catalog.specs import NAME, CorpusSpec
from pvdr_bench.runs.paths import data_root

BUILTIN = {
    spec.name: spec
    for spec in (
        CorpusSpec(
            name="metaworld", title="Meta-World", kind="generated", license="MIT (Meta-World)",
            source="metaworld 3.1.1: scripted experts with time-correlated noise, and random play",
            description="the robot and tables of the tasks themselves, without their actions: in-domain videos"),
        CorpusSpec(
            name="fetch-push", title="Fetch push", kind="generated", license="MIT (gymnasium-robotics)",
            source="gymnasium-robotics FetchPush, random pushing",
            description="another robot pushing an object in another scene: a true domain gap"),
    )
}
DEFAULT_CORPUS = "metaworld"


def user_corpora() -> dict[str, CorpusSpec]:
    """Clip stores under ``DATA/videos/NAME/`` that no built-in corpus made."""
    folder = data_root() / "videos"
    names = sorted(path.parent.parent.name for path in folder.glob("*/*/manifest.json")) if folder.is_dir() else []
    return {
        name: CorpusSpec(name=name, title=name, kind="user", source=str(folder / name),
                         description="a store of your own")
        for name in dict.fromkeys(names) if name not in BUILTIN and NAME.match(name)
    }


def registered() -> dict[str, CorpusSpec]:
    """Corpora that another package registered with ``videos.sources``."""
    from pvdr_bench.videos.sources import sources

    return {
        source.name: CorpusSpec(name=source.name, title=source.name, description=source.description,
                                kind="generated" if source.kind == "generated" else "user", source=source.generator)
        for source in sources() if source.name not in BUILTIN
    }


def corpora() -> dict[str, CorpusSpec]:
    """All corpora by name."""
    return {**user_corpora(), **registered(), **BUILTIN}
