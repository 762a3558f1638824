"""What is typed at make arrives at the command as words, whatever characters it is made of, and none of it is run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pawpularity import cli

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
WORDS = dict(re.findall(r"^WORDS_(\S+) := (.*)$", MAKEFILE, re.M))

# Would each leave a file behind if a shell or make read it.
HOSTILE = [
    "a;touch pwned",
    "a&&touch pwned",
    "a|touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "$(shell touch pwned)",
    "${shell touch pwned}",
    "$(file >pwned,x)",
    "a\ntouch pwned",
    "a >pwned",
    "$HOME",
    "$$HOME",
    "*",
    "a#b",
    "%",
    "a\\b",
    "it's",
    'say "a"',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_character_of_a_name_is_a_command(make, text):
    for given in ({}, {"RUN": shlex.quote(text)}):
        typed = [] if given else [f"RUN={shlex.quote(text)}"]
        done, told = make("predict", *typed, environment=given)
        assert done.returncode == 0, done.stderr
        assert told == [["predict", "--run", text]]
    done, told = make("report", f"RUNS=first {shlex.quote(text)} last")
    assert told == [["report", "--runs", "first", text, "last"]]
    done, told = make("train", "FOLD=0", f"ARGS={shlex.quote('k=' + text)}")
    assert told == [["train", "--fold", "0", f"k={text}"]]


@pytest.mark.parametrize("verb", WORDS)
def test_every_word_of_every_verb_arrives_as_text(make, verb):
    words = [word for word in WORDS[verb].split() if word not in ("GO", "HALF", "JOBS", "SLOW", "YES")]
    texts = {word: f"{word};touch pwned $(touch pwned) $(shell touch pwned)" for word in words}
    done, (told,) = make(verb, *(f"{word}={shlex.quote(text)}" for word, text in texts.items()))
    assert done.returncode == 0, done.stderr
    if verb in ("test", "test-oldest"):
        assert told[-1] == " " + shlex.quote(texts["ARGS"])
        return
    password = texts.pop("STORAGE", None)
    assert password not in told, "a database's address must not stand on a command line, where others can list it"
    assert [word for word, text in texts.items() if text not in told] == []
    assert len([word for word in told[1:] if not word.startswith("--")]) == len(texts)


def test_a_number_of_jobs_is_a_number(make):
    for text in ("x", "0", "a[$(touch pwned)]", "2;touch pwned"):
        done, told = make("train", f"JOBS={text}")
        assert (done.returncode, told) == (2, [])
        assert "must be a number of processes" in done.stderr


def test_words_that_systems_set_for_themselves_count_only_where_they_are_typed(make):
    system = {"NAME": "DESKTOP-1", "GROUP": "staff"}
    assert make("kernel-push", environment=system)[1] == [["kernel-push"]]
    assert make("explain", environment=system)[1] == [["explain"]]
    assert make("kernel-push", "NAME=train-a", environment=system)[1] == [["kernel-push", "--name", "train-a"]]
    assert make("explain", "GROUP=eyes", environment=system)[1] == [["explain", "--group", "eyes"]]


def test_a_quote_left_open_is_said_by_the_command(refused):
    assert "no closing quotation; close the quote" in refused("oof", "--words", "it's")
    assert cli.split_words(["oof", "--words", "", "a"]) == ["oof", "a"]
    assert cli.split_words(["--words", " --config b  k=v 'c d' ~/x"]) == [
        "--config",
        "b",
        "k=v",
        "c d",
        str(Path.home() / "x"),
    ]


@pytest.mark.parametrize("word", ["VENV", "PYTHON"])
def test_the_tools_must_be_plain_names(make, word):
    for text in HOSTILE[:5]:
        done, told = make("oof", f"{word}={text}")
        assert done.returncode == 2
        assert told == []


def test_misspelt_and_misplaced_words_end_it(make):
    for words, said in (
        (["train", "FLOD=0"], "make knows no word FLOD="),
        (["oof", "FOLD=0"], "make oof takes no FOLD="),
        (["submit", "GO=yes"], "GO=yes: must be 1 or 0"),
        (["all", "YES=no"], "YES=no: must be 1 or 0"),
        (["trian"], 'make knows no verb "trian"'),
    ):
        done, told = make(*words)
        assert (done.returncode, told) == (2, []), words
        assert said in done.stderr


def test_flags_of_one_and_nought(make):
    assert make("submit", "GO=1")[1] == [["submit", "--go"]]
    assert make("submit", "GO=0")[1] == [["submit"]]
    assert make("all", "YES=1", "DATA=d")[1] == [["all", "--yes", "--data", "d"]]
    assert make("kernel-train", "FOLDS=0 1")[1] == [["kernel-train", "--folds", "0", "1"]]
    (quick,), (every,) = make("test", "ARGS=-k folds")[1], make("test", "SLOW=1")[1]
    assert quick[-3:] == ["-m", "not slow", " -k folds"]
    assert "not slow" not in every


@pytest.mark.parametrize("version", ["", "Python 3.13.1"])
def test_another_python_makes_the_environment_anew(make, tmp_path, version):
    """One on top of the other would have packages of the first and a name of the second."""
    other = tmp_path / "other"
    note = (tmp_path / "venv/bin/python").read_text()
    other.write_text(f"{note}if '-VV' in sys.argv and {version!r}:\n    print({version!r})\n")
    other.chmod(0o755)
    (tmp_path / "venv/.installed").unlink()
    done, told = make("setup", f"PYTHON={other}")
    assert done.returncode == 0, done.stderr
    assert [words for words in told if "venv" in words] == [["-m", "venv", *(["--clear"] if version else []), "venv"]]


def test_every_verb_of_make_is_one_of_the_command():
    names = set(re.findall(r"^([a-z0-9-]+): \$\(READY\)", MAKEFILE, re.M)) - {"lint", "setup", "test"}
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z0-9-]+) ", listed, re.M)) == names | {
        "help",
        "setup",
        "lint",
        "test",
        "test-oldest",
    }
    assert names <= set(cli.verbs())
    assert WORDS.keys() - {"test", "test-oldest"} <= names
    phony = set(re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.M)[1].replace("\\\n", " ").split())
    assert phony == names | {"help", "setup", "lint", "test", "test-oldest"}
