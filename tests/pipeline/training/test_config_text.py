"""Configs changed as text: the values change, the rest of the text does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from scanloom.pipeline.bundle import SHIPPED
from scanloom.pipeline.training.config_text import ConfigText
from yaml.nodes import MappingNode

YAML = """\
# What it is.
# How it runs.
size: [1, 2, 3]  # of a patch
name: plain

steps:
  - _target_: monai.transforms.Spacingd
    keys: [image, label]  # both
    pixdim: [1.0, 1.0]

  # then
  - _target_: NormalizeIntensityd
    keys: image
inline: {_target_: a.Cache, rate: 1}
net:
  _target_: UNet
  nested:
    deep: true

last: 1
"""


def mapping(config: ConfigText, key: str) -> MappingNode:
    node = config.at(key)
    assert isinstance(node, MappingNode)
    return node


def test_without_changes_the_text_is_the_same() -> None:
    assert str(ConfigText(YAML)) == YAML


def test_a_value_changes_and_its_comment_stays() -> None:
    config = ConfigText(YAML)
    config.set(config.root, "size", [4, 5, 6])
    assert str(config) == YAML.replace("[1, 2, 3]", "[4, 5, 6]")


@pytest.mark.parametrize("value", ["a: b", "@id", "$x", "yes", "", None, True, 1.5, [[1, 2], [1, 2]], {"a": [1]}])
def test_any_value_reads_back(value: Any) -> None:
    config = ConfigText(YAML)
    config.set(config.root, "name", value)
    assert yaml.safe_load(str(config))["name"] == value


def test_the_same_list_twice_is_written_twice() -> None:
    one = [0, 1]
    config = ConfigText(YAML)
    config.set(config.root, "name", [one, one])
    assert "name: [[0, 1], [0, 1]]" in str(config)


def test_new_keys_come_after_the_others_in_their_order() -> None:
    config = ConfigText(YAML)
    for key in ("strides", "kernels"):
        config.set(mapping(config, "net"), key, 2)
    config.set(mapping(config, "inline"), "more", [1])
    expected = YAML.replace("    deep: true\n", "    deep: true\n  strides: 2\n  kernels: 2\n")
    assert str(config) == expected.replace("rate: 1}", "rate: 1, more: [1]}")


def test_components_are_found_by_the_name_of_their_class() -> None:
    config = ConfigText(YAML)
    assert [config.value(each) for each in config.components("Cache", "NormalizeIntensityd")] == [
        {"_target_": "NormalizeIntensityd", "keys": "image"},
        {"_target_": "a.Cache", "rate": 1},
    ]


def test_an_item_of_a_list_becomes_several() -> None:
    config = ConfigText(YAML)
    (item,) = config.components("Spacingd")
    config.replace(item, {"_target_": "First", "keys": "image"}, {"_target_": "Second", "n": [1]})
    text = str(config)
    assert yaml.safe_load(text)["steps"] == [
        {"_target_": "First", "keys": "image"},
        {"_target_": "Second", "n": [1]},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ]
    assert "  - _target_: First\n    keys: image\n  - _target_: Second\n    n: [1]\n\n  # then\n" in text


def test_the_comment_at_the_head_is_replaced() -> None:
    config = ConfigText(YAML)
    config.head(["Mine."])
    assert str(config) == YAML.replace("# What it is.\n# How it runs.\n", "# Mine.\n")


def test_nodes_are_found_by_monai_s_ids() -> None:
    config = ConfigText(YAML)
    node = config.at("steps#1#keys")
    assert node is not None and config.value(node) == "image"
    assert "net#nested#deep" in config
    assert [key in config for key in ("nothing", "steps#2", "steps#x", "name#x")] == [False] * 4


def test_json_stays_json() -> None:
    contents = {"steps": [{"_target_": "Spacingd", "pixdim": [1, 1]}, {"_target_": "Other"}], "empty": {}, "n": 1}
    config = ConfigText(json.dumps(contents, indent=1))
    (spacing,) = config.components("Spacingd")
    config.set(spacing, "mode", "nearest")
    config.set(mapping(config, "empty"), "n", None)
    config.replace(next(config.components("Other")), {"_target_": "One"}, {"_target_": "Two"})
    config.head(["no comment"])
    assert json.loads(str(config)) == {
        "steps": [
            {"_target_": "Spacingd", "pixdim": [1, 1], "mode": "nearest"},
            {"_target_": "One"},
            {"_target_": "Two"},
        ],
        "empty": {"n": None},
        "n": 1,
    }


@pytest.mark.parametrize("indent", ["", "  "])
def test_a_list_in_lines_of_its_own_becomes_one_line(indent: str) -> None:
    config = ConfigText(f"net:\n  features:\n  {indent}- 1\n  {indent}- 2\n  padding: same\n")
    config.set(mapping(config, "net"), "features", [3])
    assert str(config) == "net:\n  features: [3]\n  padding: same\n"


@pytest.mark.parametrize("name", ["train", "inference", "evaluate"])
def test_every_value_of_a_shipped_config_can_be_set_to_what_it_is(name: str) -> None:
    text = (SHIPPED / "hippocampus_mr_unet" / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    config = ConfigText(text)
    contents = yaml.safe_load(text)
    for key, value in contents.items():
        config.set(config.root, key, value)
    assert yaml.safe_load(str(config)) == contents


@pytest.mark.parametrize(("text", "words"), [("a: [", "no YAML"), ("[1]", "no mapping of ids"), ("", "no mapping")])
def test_what_is_no_mapping_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConfigText(text)
