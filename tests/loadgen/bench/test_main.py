"""The command's face."""

from click.testing import CliRunner

from loadgen.bench import profile
from loadgen.bench.__main__ import BENCHMARKS, main


def test_every_benchmark_is_listed_and_all_fit_into_ten_minutes() -> None:
    result = CliRunner().invoke(main, ["--list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [*BENCHMARKS]
    assert sum(benchmark.seconds for benchmark in BENCHMARKS.values()) < 600


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    result = CliRunner().invoke(main, ["--only", "storm,nonsense"])
    assert result.exit_code == 2
    assert "unknown: nonsense; known: rivals" in " ".join(result.output.split())


def test_a_profile_is_summed_up_by_function() -> None:
    collapsed = "run (a.py:1);flush (b.py:2);write (c.py:3) 6\nrun (a.py:1);flush (b.py:2) 3\nrun (a.py:1) 1\n"
    shares = {share.function.split()[0]: (share.own, share.total) for share in profile.summed(collapsed)}
    assert shares == {"write": (0.6, 0.6), "flush": (0.3, 0.9), "run": (0.1, 1.0)}
