"""A bundle's network with its weights, and what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from factories import make_bundle
from scanloom.pipeline.bundle_network import inference_config, load_network
from scanloom.pipeline.errors import BundleError


def test_the_network_has_the_bundles_weights(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    state, weights = load_network(bundle).state_dict(), torch.load(bundle.weights, weights_only=True)
    assert all(torch.equal(state[name], weights[name]) for name in weights) and len(state) == len(weights)


def test_weights_under_the_name_model_load_too(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    weights = torch.load(bundle.weights, weights_only=True)
    torch.save({"model": weights}, bundle.weights)
    assert torch.equal(load_network(bundle).state_dict()["heads.0.bias"], weights["heads.0.bias"])


def test_a_config_knows_its_folder(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, config={"root": "@bundle_root"})
    parser = inference_config(bundle)
    assert parser.get_parsed_content("root") == str(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"network_def": None}, r"bundle tiny: inference\.yaml has no network_def\. Add"),
        ({"network_def": {"_target_": "scanloom.networks.UNet", "depth": "x"}}, r"inference\.yaml can not be built: "),
        ({"network_def": {"_target_": "torch.nn.Parameter"}}, r"network_def is a Parameter\. Make it a Module"),
        (
            {"network_def": {"_target_": "scanloom.networks.UNet"}},
            r"models/model\.pt \(SHA-256 \w{8}…\) does not fit network_def: ",
        ),
    ],
)
def test_a_network_that_can_not_be_had_is_told_in_one_line(tmp_path: Path, config: dict, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        load_network(make_bundle(tmp_path, config=config))
    assert "\n" not in str(caught.value)


def test_a_config_that_is_none_is_told(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    bundle.config("inference").write_text("[unfinished")
    with pytest.raises(BundleError, match=r"inference\.yaml can not be read: .*It must be a mapping of ids"):
        inference_config(bundle)
