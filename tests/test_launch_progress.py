import io

from rich.console import Console

from pvdr_bench.launch.progress import StageProgress


def lines_of(every_seconds: float) -> list[str]:
    stream = io.StringIO()
    with StageProgress(Console(file=stream, width=200), every_seconds) as progress:
        for step in range(3):
            progress.report("pretrain", step, 9000)
        progress.report("tokens", 10, 10)
    return stream.getvalue().splitlines()


def test_each_stage_is_named_at_once_and_then_now_and_then() -> None:
    rare, often = lines_of(1000.0), lines_of(0.0)
    assert [line.split("  left")[0] for line in rare] == ["making: pretrain  0/9,000", "making: tokens  10/10"]
    assert [line.split("  ")[1] for line in often] == ["0/9,000", "1/9,000", "2/9,000", "10/10"]
    assert "left -" in often[0] and "left -" not in often[2]  # known as soon as two reports gave a rate
