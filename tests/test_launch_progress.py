import io
import json

from rich.console import Console
from typer.testing import CliRunner

from pvdr_bench.cli.main import app
from pvdr_bench.launch.progress import StageProgress
from pvdr_bench.progress import listening, tell, told


def lines_of(every_seconds: float) -> list[str]:
    stream = io.StringIO()
    with StageProgress(Console(file=stream, width=200), every_seconds=every_seconds) as progress:
        for step in range(3):
            progress.report("pretrain", step, 9000)
        progress.report("tokens", 10, 10)
    return stream.getvalue().splitlines()


def test_each_stage_is_named_at_once_and_then_now_and_then() -> None:
    rare, often = lines_of(1000.0), lines_of(0.0)
    assert [line.split("  left")[0] for line in rare] == ["making: pretrain  0/9,000", "making: tokens  10/10"]
    assert [line.split("  ")[1] for line in often] == ["0/9,000", "1/9,000", "2/9,000", "10/10"]
    assert "left -" in often[0] and "left -" not in often[2]  # known as soon as two reports gave a rate


def test_who_listens_is_told_before_the_first_part_and_after_each_and_nobody_else() -> None:
    heard: list[tuple[str, int, int]] = []
    assert list(told("ab", "letters")) == ["a", "b"]  # nobody listens
    with listening(lambda *said: heard.append(said)):
        assert list(told(iter("ab"), "unsized")) == ["a", "b"]
        assert list(told({"x": 1}.items(), "pairs")) == [("x", 1)]
        tell("seconds", 3, 5)
    tell("seconds", 4, 5)
    assert heard == [("unsized", 0, 0), ("unsized", 1, 1), ("unsized", 2, 2), ("pairs", 0, 1), ("pairs", 1, 1),
                     ("seconds", 3, 5)]


def test_a_bench_tells_how_far_it_is_and_keeps_standard_output_for_its_result() -> None:
    result = CliRunner().invoke(app, ["bench", "coverage", "--json", "-o", "simulations=20", "-o", "seeds=[3]",
                                      "-o", "bootstrap_simulations=10", "-o", "repetitions=20"])
    assert result.exit_code == 0 and json.loads(result.stdout)["simulations"] == 20
    assert result.stderr.splitlines()[0].startswith("bench coverage: distributions  0/5")
