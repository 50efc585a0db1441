"""The report shows what ``inspect`` left in a run: pictures with their captions, numbers; a broken file is a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pvdr_bench.playing.film import write_picture
from pvdr_bench.results.collect import collect
from pvdr_bench.results.report.build import build_report
from pvdr_bench.results.report.media import captions_of, embed, inspected
from pvdr_bench.results.report.models import models_part
from pvdr_bench.runs.files import write_json
from tests.results_runs import make_run

PICTURES = {"latents": {"what": "latents", "title": "Representations", "about": "As the action module reads them.",
                        "files": ["latents.png"], "drawn": {"seed": 0}, "numbers": {"panels": {
                            "decision 3": {"sampled": {"probe_r2": 0.123456789, "rank_correlation": None}}}}}}


def shown(root: Path) -> Path:
    run = make_run(root, [0.5])
    write_picture(np.zeros((8, 8, 3), np.uint8), run / "inspect" / "latents.png")
    write_picture(np.zeros((8, 8, 3), np.uint8), run / "videos" / "strip.png")
    write_json(run / "inspect" / "inspect.json", {"format": 1, "target": {}, "pictures": PICTURES})
    return run


def test_pictures_come_after_videos_with_their_captions(tmp_path: Path) -> None:
    run = shown(tmp_path)
    media = embed({"run": run}, total=10**6, each=10**6)
    assert [(m.name, m.caption) for m in media] == [
        ("strip.png", ""), ("inspect/latents.png", "Representations. As the action module reads them.")]


def test_the_page_holds_picture_caption_and_numbers(tmp_path: Path) -> None:
    shown(tmp_path)
    page = build_report(collect(tmp_path))
    assert "inspect/latents.png" in page.html and "As the action module reads them." in page.html
    assert '"probe_r2":0.12346' in page.html.replace(" ", "")
    assert page.html == build_report(collect(tmp_path)).html


def test_models_that_were_inspected_beside_the_runs_are_shown(tmp_path: Path) -> None:
    """Their pictures, captions and numbers; what has no room, or cannot be read, is a note; runs' folders are none."""
    shown(tmp_path)
    folder = tmp_path / "inspect" / "pvdr-x-cpu-0123"
    write_picture(np.zeros((8, 8, 3), np.uint8), folder / "futures.png")
    numbers = {"psnr": 20.123456, "panels": {"a": {"shown": [1.5, None]}}}
    entry = {"what": "futures", "title": "Futures", "about": "Beside <true> ones.", "drawn": {},
             "files": ["futures.png", "gone.mp4"], "numbers": numbers}
    write_json(folder / "inspect.json", {"format": 1, "pictures": {"futures": entry}, "target": {
        "kind": "artefact", "stage": "pretrain", "corpora": {"metaworld": "1"}}})
    page = build_report(collect(tmp_path)).html
    assert "Models that runs start from" in page and "pretrain pvdr-x-cpu-0123, clips of metaworld" in page
    assert "Futures. Beside &lt;true&gt; ones." in page and page.count('src="data:image/png;base64,') == 1
    assert "<dt>psnr</dt><dd>20.12</dd>" in page and "<dt>panels, a, shown</dt><dd>1.5, None</dd>" in page
    assert "inspect/pvdr-x-cpu-0123/gone.mp4 was left out: it is no picture or film that is there." in page
    tight = models_part(tmp_path, left=10, total=10**7, each=10**6)
    assert "futures.png was left out: " in tight and "all files together may have 10.0 MB" in tight
    assert "src=" not in tight
    write_picture(np.zeros((8, 8, 3), np.uint8), tmp_path / "other.png")
    write_json(folder / "inspect.json", {"format": 1, "target": {"kind": "artefact"}, "pictures": {
        "futures": {**entry, "files": ["../../other.png"]}}})
    assert "src=" not in models_part(tmp_path, left=10**6, total=10**7, each=10**6)  # it stays in its folder
    (folder / "inspect.json").write_text("{")
    assert "inspect/pvdr-x-cpu-0123/inspect.json cannot be read" in build_report(collect(tmp_path)).html
    assert models_part(tmp_path / "nowhere", left=10, total=10, each=10) == ""


def test_a_broken_inspect_json_is_a_note(tmp_path: Path) -> None:
    run = shown(tmp_path)
    (run / "inspect" / "inspect.json").write_text('{"format": 1, "pictures": []}')
    pictures, why = inspected(run)
    assert pictures == {} and "inspect/inspect.json cannot be read" in why and captions_of(run) == {}
    page = build_report(collect(tmp_path))
    assert "inspect/inspect.json cannot be read" in page.html and "inspect/latents.png" in page.html
