"""The videos that runs were pre-trained on: where they come from, their terms, what to cite, numbers and pictures."""

from __future__ import annotations

import base64

from pvdr_bench.catalog.corpora import corpora
from pvdr_bench.catalog.mixture import Share, parse_mixture
from pvdr_bench.catalog.specs import CorpusSpec
from pvdr_bench.errors import BenchError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.report.parts import Td, count, facts, sortable, text, words
from pvdr_bench.runs.paths import data_root
from pvdr_bench.videos.statistics import sheet_png, statistics
from pvdr_bench.videos.store import ClipStore

_SHEET = (3, 8)  # episodes and frames: small, since each corpus has one
_LARGEST = 400_000  # bytes of a picture


def videos_part(results: Results) -> str:
    """Every corpus of the runs; numbers and pictures of those that lie on this machine, and what could not be read."""
    problems: list[str] = []
    chosen = sorted({str(name) for name in results.runs["corpus"]} - {"none"})
    names = sorted({share.corpus for name in chosen for share in _shares(name, problems)})
    if not chosen:
        return ""
    known = corpora()
    stores = {name: _store(name, results, problems) for name in names}
    rows = [_row(name, known.get(name), stores[name]) for name in names]
    sheets = "".join(_sheet(name, store, problems) for name, store in stores.items() if store is not None)
    heads = ["corpus", "source", "licence", "cite", "episodes", "frames", "mean motion"]
    table = sortable("Videos of pre-training", heads, rows, name="videos",
                     note='<p class="note">Mean motion: mean absolute difference of neighbouring frames, in levels of '
                          "255. A dash: the videos are not on the machine that made this report, or are named "
                          "below.</p>")
    said = "".join(f'<p class="note">{text(problem)}</p>\n' for problem in problems)
    return f"<h3>Videos of pre-training</h3>\n{table}\n{said}{sheets}"


def _shares(name: str, problems: list[str]) -> tuple[Share, ...]:
    try:
        return parse_mixture(name)
    except BenchError as error:  # a name that another version wrote
        problems.append(f"Videos of runs on {name} are not shown: {error.message}.")
        return ()


def _store(name: str, results: Results, problems: list[str]) -> ClipStore | None:
    """The corpus at the image size of most runs, if it is here and whole."""
    sizes = [int(protocol["image_size"]) for protocol in results.protocols.values() if "image_size" in protocol]
    for size in dict.fromkeys(sizes):
        path = data_root() / "videos" / name / str(size)
        try:
            if path.is_dir():
                return ClipStore(path)
        except BenchError as error:  # without its place: paths of a machine are not for a page that is shown around
            problems.append(f"{name} at {size} pixels is broken on the machine that made this report: {error.message}. "
                            f"pvdr-bench videos check {name} --image-size {size} tells where.")
    return None


def _row(name: str, spec: CorpusSpec | None, store: ClipStore | None) -> list[Td]:
    about = store.about if store is not None else {}
    found = statistics(store) if store is not None else {}
    facts_of = {key: about.get(key) or (getattr(spec, key) if spec is not None else "")
                for key in ("source", "license", "citation")}
    source = "" if spec is not None and spec.kind == "user" and "source" not in about else facts_of["source"]
    motion = Td(text(f"{found['mean_motion']:.2f}"), float(found["mean_motion"])) if found else count(None)
    return [words(name, head=True), words(source or "–"), words(facts_of["license"] or "not stated"),
            words(facts_of["citation"] or "–"), count(found.get("episodes")), count(found.get("frames")), motion]


def _sheet(name: str, store: ClipStore, problems: list[str]) -> str:
    try:
        data = sheet_png(store, *_SHEET)
    except BenchError as error:
        problems.append(f"No pictures of {name}: {error.message}.")
        return ""
    if len(data) > _LARGEST:
        problems.append(f"No pictures of {name}: they would be {len(data) / 1e6:.1f} MB; pvdr-bench videos preview "
                        f"{name} --image-size {store.image_size} draws them.")
        return ""
    picture = f'<img alt="{text(f"Frames of {name}: episodes from top to bottom, time from left to right")}" ' \
              f'src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">'
    return facts([(f"{name}, three episodes", picture)])
