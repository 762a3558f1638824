import json
from pathlib import Path

import pytest

from pawpularity.config import from_dict, resolve, run_name
from pawpularity.errors import UserError
from pawpularity.config import Config, check

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_resolves_and_survives_json(name):
    config = resolve(name)
    check(config)
    assert from_dict(json.loads(json.dumps(config.to_dict())), "test") == config


def test_default_yaml_lists_the_whole_schema():
    """default.yaml is the documentation of every key, so none may be missing, and none may differ from the schema."""
    from omegaconf import OmegaConf

    written = OmegaConf.to_container(OmegaConf.load(CONFIGS / "default.yaml"))
    schema = Config().to_dict()
    del schema["name"]
    assert {k: sorted(v) for k, v in written.items()} == {k: sorted(v) for k, v in schema.items()}
    assert resolve("default").to_dict() == Config().to_dict()


def test_deltas_merge_left_to_right_and_words_win():
    config = resolve("resnet152,paper", ["train.lr=3e-4"])
    assert (config.name, config.model.backbone, config.model.output) == (
        "resnet152-paper",
        "resnet152.a1h_in1k",
        "relu",
    )
    assert (config.train.lr, config.train.copies) == (3e-4, "paper")
    assert resolve("swin_large").train.ema > 0, "base: transfer is laid under it"


def test_arguments_of_another_backbone_do_not_leak():
    assert resolve("small/densenet161", ["model.backbone=test_resnet"]).model.args == {}
    assert resolve("small/densenet161", ["model.args={growth_rate: 8}"]).model.args["growth_rate"] == 8


def test_what_one_command_changed_is_not_there_for_the_next():
    """The schema's tree is made once."""
    plain = resolve("default")
    words = ["model.backbone=resnet50", "model.args.drop_rate=0.1", "explain.methods=[rise]", "train.lr=0.5"]
    assert resolve("default", words).model.args == {"drop_rate": 0.1}
    assert from_dict(resolve("default", words).to_dict(), "config.json").train.lr == 0.5
    assert resolve("default") == plain == from_dict(plain.to_dict(), "config.json")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.lrr=1", 'unknown key train.lrr; did you mean "train.lr"?'),
        ("tain.lr=1", 'did you mean "train"?'),
        ("train.epochs=abc", "Integer"),
        ("train.lr=0", "1e-09..10"),
        ("train.lr=nan", "must lie in"),
        ("train.lr", "key=value"),
        ("model.unfrozen=some", "must be a count"),
        ("model.output=relu", "bce needs model.output=sigmoid"),
        ("train.loss=rmse", "one of bce, mse, huber"),
        ("train.stop=none", "schedule=cosine"),
        ("train.warmup_epochs=1", "belongs to train.schedule=cosine"),
        ("model.metadata_widths=[]", "model.metadata=none"),
        ("photos.size=1.5", "Integer"),
        ("folds.k=1", "2..1000"),
        ("model.args=3", "model.args"),
        ("name=x", "--run"),
    ],
)
def test_wrong_words_are_refused_with_the_cure(word, said):
    with pytest.raises(UserError) as caught:
        resolve("densenet161", [word])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("train: {lrr: 1}", "unknown key train.lrr"), ("- a\n- b", "keys and values"), ("train: [", "not readable YAML"),
     ("base: x\n", "no such configuration"), ("", None)],
)  # fmt: skip
def test_config_files(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    if said is None:
        assert resolve(str(file)).name.endswith("mine")
        return
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        resolve(str(file))


@pytest.mark.parametrize("word", ["train.mixup=0.2", "train.manifold_mixup=0.2"])
def test_the_papers_training_mixes_nothing(word):
    leaky = ["train.split=leaky", "train.copies=authors", "train.augment=none"]
    assert resolve("densenet161", leaky).train.split == "leaky"
    with pytest.raises(UserError, match=r"mixed no photos; leave train\.mixup and train\.manifold_mixup 0"):
        resolve("densenet161", [*leaky, word])


def test_unknown_config_names_the_nearest():
    with pytest.raises(UserError, match='did you mean "densenet161"'):
        resolve("densnet161")


def test_run_names():
    assert run_name("small/vgg19_bn,paper") == "small-vgg19_bn-paper"
