"""What a command prints: it fits the terminal, and shows how long things take."""

import subprocess
import sys

import pytest

from pawpularity import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (12.2, "12 s"), (59.7, "1 min"), (200, "3 min 20 s"), (3599, "1 h 0 min"),
     (7500, "2 h 5 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_a_table_is_aligned_and_plain_where_no_terminal_reads_it():
    text = console.table(("run", "RMSE"), [("a", "17.24"), ("long name", None)])
    assert text.splitlines() == ["run         RMSE", "a          17.24", "long name"]
    assert "\x1b" not in text


def at_a_terminal(code, columns):
    """What Python code writes to a pseudo-terminal of that width."""
    script = f"import pty, sys; sys.exit(pty.spawn([sys.executable, '-c', {code!r}]))"
    environment = {"COLUMNS": str(columns), "TERM": "xterm", "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True
    ).stdout.decode()


@pytest.mark.parametrize("columns", [40, 80])
def test_a_table_fits_a_terminal(columns):
    code = "from pawpularity import console; print(console.table(('run', 'what it is'), [('r' * 30, 'w ' * 60)]))"
    plain = [line.split("\x1b[0m")[-1] for line in at_a_terminal(code, columns).splitlines()]
    assert len(plain) > 2
    assert all(len(line.rstrip()) <= columns for line in plain)


def test_no_digit_of_a_table_is_cut_off(monkeypatch):
    row = [
        "a run with a long name",
        *(f"{number}.{number} [{number}, {number}]" for number in range(11_111, 99_999, 11_111)),
    ]
    for columns in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = console.table(["run", *"abcdefgh"], [row]).splitlines()
        assert all(len(line) <= columns for line in lines)
        assert sorted(filter(str.isdigit, "".join(lines))) == sorted(filter(str.isdigit, "".join(row)))


def test_a_result_is_shortened_and_full_is_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text, more = "\n".join([*map(str, range(20)), "word " * 12]), "the rest"
    monkeypatch.setattr(console, "_full", True)
    console.emit({}, text, None, more=more)
    whole = capsys.readouterr().out.splitlines()
    assert [*whole[:20], whole[-1]] == [*map(str, range(20)), more]
    assert whole[20:-1] == ["word " * 7 + "word", "  " + "word " * 3 + "word"]
    monkeypatch.setattr(console, "_full", False)
    console.emit({}, text, None, more=more)
    short = capsys.readouterr().out.splitlines()
    assert short[:-1] == whole[: console.MOST_LINES]
    assert short[-1].startswith(f"{len(whole) - console.MOST_LINES} more lines: --full")
    console.emit({}, "one", None, more="two")
    assert capsys.readouterr().out == "one\ntwo\n", "a line that says that a line is left out saves nothing"


def test_the_next_step_has_the_words_with_a_value(capsys):
    console.next_step("make errors", RUN="my run", DATA=None, FOLDS="", SCALE=100.0, MEMBERS=["a", "b"])
    assert capsys.readouterr().err == """next: make errors RUN="'my run'" SCALE=100 MEMBERS="a b"\n"""


@pytest.mark.parametrize(("value", "text"), [(-0.518, "-0.52"), (0.0031, "+0.003"), (0.0, "+0.000"), (1.0, "+1.00")])
def test_a_small_difference_has_three_decimals(value, text):
    assert console.points(value) == text


def test_the_bar_of_a_training_keeps_its_figures_on_80_columns():
    code = """if True:
        from pawpularity.console import Progress
        with Progress(2400, "fold 0", "steps") as progress:
            progress.add(600)
            progress.note("epoch 12/20, train 20.12, inner 19.30, constant 21.75, lr 0.00096")
            print(progress.line())
    """
    (shown,) = [line for line in at_a_terminal(code, 80).splitlines() if "constant 21.75" in line]
    shown = shown[shown.rindex("fold 0") :]
    assert " left, epoch 12/20, train 20.12, inner 19.30" in shown
    assert len(shown.partition(", lr")[0]) <= 80


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_EVERY_S", -1)
    with console.Progress(4, "counting") as progress:
        progress.note("half way")
        progress.add(2)
    line = capsys.readouterr().err
    assert "counting: 2 of 4" in line
    assert "left" in line
    assert "half way" in line
    assert list(console.track("abc", "letters")) == ["a", "b", "c"]


def test_nested_bars_and_lines_share_a_terminal():
    code = """if True:
        from pawpularity.console import Progress, log
        with Progress(None, "outer", "steps") as outer:
            with Progress(2, "inner", "views") as inner:
                inner.add()
                log("a [line] between")
            outer.start(3)
            outer.add(2)
        log("after")
    """
    out = at_a_terminal(code, 80)
    assert "a [line] between\r\n" in out
    assert "inner: 0 of 2 views" in out
    assert out.index("outer, ") < out.index("inner: ")
    assert out.endswith("after\r\n")


def test_without_rich_there_is_no_bar():
    code = """if True:
        import sys
        sys.modules["rich"] = None
        from pawpularity.console import log, track
        log(str(list(track("ab", "letters"))))
    """
    assert "['a', 'b']" in at_a_terminal(code, 80)


def test_only_the_first_of_several_processes_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    console.log("x")
    assert not capsys.readouterr().err
