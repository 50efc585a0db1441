"""``python -m pvdr_bench`` is the same as ``pvdr-bench``."""

from pvdr_bench.cli.main import main

main()
