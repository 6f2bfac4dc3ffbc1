"""The whole config: YAML, overrides, presets, plug-ins."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sublayer.errors import ConfigError
from sublayer.run import RunConfig, presets, read_config, read_preset, write_config

TEXT = {"data": {"sources": [{"kind": "text", "path": "a.txt"}, {"kind": "text", "path": "b.txt"}]}}


def changed(*overrides: str, source: dict[str, Any] | None = None) -> RunConfig:
    return read_config(source if source is not None else TEXT, overrides)


# ---------- overrides


def test_overrides_reach_any_depth() -> None:
    config = changed("training.steps=7", "training.logging.every=3", "model.d_model=48")
    assert (config.training.steps, config.training.logging.every, config.model.d_model) == (7, 3, 48)


def test_overrides_reach_into_a_shorthand() -> None:
    config = changed("model.position=rope", "model.position.theta=5e5", "model.feed_forward=swiglu")
    assert (config.model.position.kind, config.model.position.theta) == ("rope", 5e5)
    config = changed("model.feed_forward.d_ff=64", source={"model": {"feed_forward": "geglu"}})
    assert (config.model.feed_forward.d_ff, config.model.feed_forward.activation) == (64, "gelu")


def test_overrides_reach_into_lists() -> None:
    config = changed("data.sources.1.weight=2.5", "training.optimizer.betas=[0.8, 0.9]")
    assert [source.weight for source in config.data.sources] == [1.0, 2.5]
    assert config.training.optimizer.betas == (0.8, 0.9)


def test_a_later_override_wins_and_a_whole_part_replaces() -> None:
    config = changed(
        "training.steps=7", "training.steps=8", "model.attention={n_heads: 2}", "model.attention.n_kv_heads=1"
    )
    assert config.training.steps == 8
    assert (config.model.attention.n_heads, config.model.attention.n_kv_heads) == (2, 1)


def test_values_are_yaml() -> None:
    config = changed(
        "training.clip_norm=null", "training.compile=true", "training.optimizer.lr=1e-3", "model.d_model=1e2"
    )
    assert config.training.clip_norm is None
    assert config.training.compile is True
    assert config.training.optimizer.lr == 0.001
    assert config.model.d_model == 100


def test_overrides_may_be_a_mapping_and_change_nothing_of_the_source() -> None:
    source = {"training": {"steps": 5, "logging": {"every": 2}}, "data": {"sources": [{"kind": "text", "path": "a"}]}}
    before = yaml.safe_dump(source)
    config = read_config(source, {"training.steps": 6, "training.logging.every": 1, "data.sources.0.weight": 3})
    assert (config.training.steps, config.training.logging.every, config.data.sources[0].weight) == (6, 1, 3)
    assert yaml.safe_dump(source) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "training: unknown key 'stepz'; did you mean 'steps'?"),
        ("trainin.steps=3", "unknown key 'trainin'; did you mean 'training'?"),
        ("training.logging.evry=3", "training.logging: unknown key 'evry'; did you mean 'every'?"),
        ("model.attention.n_hedas=3", "model.attention: unknown key 'n_hedas'; did you mean 'n_heads'?"),
        ("model.position=rotaryy", "model.position: 'rotaryy' is not a position; did you mean 'rotary'?"),
        ("model.attention.n_heads=5", "model.attention: n_heads (5) does not divide d_model (384)"),
        ("training.steps=0", "training.steps: must be greater than or equal to 1, not 0"),
        ("training.steps=many", "training.steps: must be a"),
        ("training.steps=1.5", "training.steps: must be a"),
        ("training.steps=true", "training.steps: must be a number, not true"),
        ("training.steps=", "training.steps: must be a valid integer, not None"),
        ("training.seed=-1", "training.seed: must be greater than or equal to 0, not -1"),
        ("training.optimizer=sgd", "training.optimizer: 'sgd' is not an optimizer; choose from: adamw, muon"),
        ("training.optimizer.lr=.inf", "training.optimizer.lr: must be a finite number"),
        ("training.optimizer.betas=[0.9]", "training.optimizer.betas[1]: is required"),
        ("training.schedule={kind: wsd, decay: 2}", "training.schedule.decay: must be less than or equal to 1, not 2"),
        ("training.accumulation=3", "training: accumulation (3) does not divide batch_size (16)"),
        ("training.logging=no", "training.logging: must be"),
        ("data.sources.2.path=c", "data.sources.2.path: '2' is no place in a list of 2; count from 0"),
        ("data.sources.x.path=c", "'x' is no place in a list of 2"),
        ("data.sources.².path=c", "'²' is no place in a list of 2"),
        ("data.sequence_length.x=3", "data: unknown key"),
        ("data.sources=[]", "data.sources: "),
        ("data.objective=seq2seq", "data.objective: seq2seq learns from pairs of texts, and"),
        (
            "data={objective: {kind: classify, label: domain}, isolate_documents: false}",
            "data.isolate_documents: false has no effect with the objective classify",
        ),
        ("model.stack=encoder", "data.objective: causal predicts the next token, which an encoder would see"),
        ("plugins=5", "plugins: must be a list"),
        ("plugins=[nowhere.py]", "plugins: there is no file"),
        ("device=tpu", "device: must be 'auto', 'cpu', 'cuda' or 'mps', not 'tpu'"),
        ("version=2", "version: this sublayer reads configs of version 1, not 2"),
        ("training.steps", "'training.steps' is no override; write key=value"),
        ("=3", "'=3' is no override; write key=value"),
        ("training.steps=[", "training.steps: '[' is no YAML value"),
        ("training.steps=2024-13-45", "training.steps: '2024-13-45' is no YAML value"),
        ("training={steps: 1, steps: 2}", "training: '{steps: 1, steps: 2}' is no YAML value"),
    ],
)
def test_a_wrong_value_is_one_sentence(override: str, message: str) -> None:
    if override == "data.sequence_length.x=3":
        source: dict[str, Any] = {"data": {"sequence_length": 64}}
        message = "data.sequence_length.x: 'data.sequence_length' is 64, which has no keys below it"
    else:
        source = TEXT
    with pytest.raises(ConfigError) as raised:
        changed(override, source=source)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_positions_shorter_than_the_sequences_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.sequence_length \(64\) is longer than .* model.max_length \(32\)"):
        changed("model.position=learned", "model.max_length=32", "data.sequence_length=64")


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.vocab_size: is 100, but the tokenizer has 257 tokens"):
        changed("model.vocab_size=100").with_vocabulary(257)
    assert changed("model.vocab_size=300").with_vocabulary(257).model.vocab_size == 300
    assert changed().with_vocabulary(257).model.vocab_size == 257


# ---------- files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; write at least 'version: 1'"),
        (b"# nothing but a remark\n", "is empty"),
        (b"- a\n- b\n", "holds no mapping of keys to values"),
        (b"training:\n  steps: [1\nmodel: 3\n", "is not valid YAML in line 3, column 6"),
        (b"a: b: c\n", "is not valid YAML in line 1, column 5"),
        (
            b"training: {steps: 1}\nmodel: {}\ntraining: {seed: 1}\n",
            "in line 3, column 1: the key 'training' is given twice",
        ),
        (b"x: 2024-13-45\n", "is not valid YAML: month must be in 1..12"),
        (b"x: \0\n", "is not valid YAML"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"[" * 5000, "is not valid YAML"),
        (b"x: !!python/object/apply:os.system ['true']\n", "is not valid YAML in line 1"),
    ],
)
def test_a_damaged_file_is_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config .*/none.yaml"):
        read_config(tmp_path / "none.yaml")


def test_a_directory_stands_for_the_config_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config .*/config.yaml"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("training: {steps: 3}\n")
    assert read_config(tmp_path).training.steps == 3


def test_yaml_s_merge_keys_still_work(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("training: &t {steps: 3, seed: 1}\nmodel: {d_model: 96}\n")
    assert read_config(tmp_path / "c.yaml").training.seed == 1
    (tmp_path / "c.yaml").write_text("model: {layers: [&a {position: rope}, {<<: *a, norm: layer}], n_layers: 2}\n")
    layers = read_config(tmp_path / "c.yaml").model.resolve()
    assert layers[1].position.kind == "rope"
    assert layers[1].norm.kind == "layer"


def test_a_written_config_reads_as_itself(tmp_path: Path) -> None:
    config = changed(
        "data.sources.0.domain='1e5'",
        "training.optimizer={kind: muon, lr: 1e-5}",
        "model.layers=[{position: {theta: 5e5}}]",
    )
    write_config(tmp_path / "config.yaml", config)
    again = read_config(tmp_path / "config.yaml")
    assert again == config
    assert again.data.sources[0].domain == "1e5"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_config_cut_off_by_a_crash_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path / "config.yaml", changed("training.steps=3"))

    def crash(path: Path, text: str, encoding: str) -> int:
        path.write_bytes(text.encode()[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", crash)
    with pytest.raises(KeyboardInterrupt):
        write_config(tmp_path / "config.yaml", changed("training.steps=4"))
    assert read_config(tmp_path / "config.yaml").training.steps == 3


# ---------- presets and plug-ins


def test_every_preset_is_legal() -> None:
    assert "default" in presets()
    for name in presets():
        config = read_config(read_preset(name))
        assert RunConfig.parse(config.tree()) == config


def test_no_config_is_the_default_preset() -> None:
    assert read_config(None) == read_config(read_preset("default"))
    assert read_config(None, ["training.steps=3"]).training.steps == 3


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--preset: there is no preset 'defalt'; did you mean 'default'?"):
        read_preset("defalt")


PLUGIN = """
from typing import Literal
from sublayer.registry import register
from sublayer.training.schedule import ScheduleConfig

@register
class HalfConfig(ScheduleConfig):
    '''Half the rate.'''
    kind: Literal["half"] = "half"

    def after_warmup(self, done):
        return 0.5
"""


@pytest.mark.parametrize("form", ["list", "text"])
def test_plugins_are_run_before_the_rest_is_read(form: str, tmp_path: Path, registries: None) -> None:
    (tmp_path / "half.py").write_text(PLUGIN)
    path = str(tmp_path / "half.py")
    config = read_config({"plugins": [path] if form == "list" else path, "training": {"schedule": "half"}})
    assert config.training.schedule.factor(3, 10) == 0.5
    assert config.plugins == (path,)


def test_a_plugin_that_fails_is_named(tmp_path: Path, registries: None) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"plugins: .*bad.py failed with ZeroDivisionError: division by zero"):
        read_config({"plugins": [str(tmp_path / "bad.py")]})
