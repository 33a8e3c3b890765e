"""Weights in half precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from factories import make_bundle
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.bundle_network import load_network, read_weights
from scanloom.pipeline.bundling.shrink import SMALL, shrink_bundle
from scanloom.pipeline.errors import UsageError


def large_bundle(folder: Path) -> Bundle:
    """One whose network has large tensors, and metadata that name its weights."""
    bundle = make_bundle(folder)
    network = {"_target_": "scanloom.networks.UNet", "spatial_dims": 3, "out_channels": 3, "features": [8, 16, 32]}
    network |= {"padding": "same", "norm": "batch"}
    bundle = make_bundle(folder, config={"network_def": network})
    torch.manual_seed(0)
    from scanloom.networks import UNet

    made = UNet(**{key: value for key, value in network.items() if key != "_target_"})
    torch.save({"model": made.state_dict()}, bundle.weights)
    metadata = {**bundle.metadata, "training": {"weights_sha256": find_bundle(folder).weights_sha256, "fold": 0}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return find_bundle(folder)


def test_the_file_is_half_as_large_and_the_network_says_the_same(tmp_path: Path) -> None:
    bundle = large_bundle(tmp_path / "bundle")
    shrunk = shrink_bundle(bundle, tmp_path / "small")
    assert shrunk.bytes_after < 0.6 * shrunk.bytes_before
    assert 0 < shrunk.largest_change < 1e-3
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        one, other = (load_network(each).eval()(image) for each in (bundle, shrunk.bundle))
    assert other.dtype == torch.float32
    assert (one - other).abs().max() < 0.01 * one.abs().max()
    assert not torch.equal(one, other)


def test_small_tensors_stay_exact(tmp_path: Path) -> None:
    bundle = large_bundle(tmp_path / "bundle")
    before, after = (read_weights(each) for each in (bundle, shrink_bundle(bundle, tmp_path / "small").bundle))
    for name, tensor in before.items():
        if tensor.numel() < SMALL:
            assert torch.equal(tensor, after[name])
        else:
            assert after[name].dtype == torch.float16


def test_what_is_too_large_for_half_precision_stays_exact(tmp_path: Path) -> None:
    bundle = large_bundle(tmp_path / "bundle")
    state = dict(read_weights(bundle))
    name = max(state, key=lambda key: state[key].numel())
    state[name].view(-1)[0] = 1e6
    torch.save(state, bundle.weights)
    after = read_weights(shrink_bundle(bundle, tmp_path / "small").bundle)
    assert torch.equal(after[name], state[name])


def test_the_metadata_name_the_new_weights_and_nothing_of_the_old_bundle_changes(tmp_path: Path) -> None:
    bundle = large_bundle(tmp_path / "bundle")
    digest = bundle.weights_sha256
    made = shrink_bundle(bundle, tmp_path / "small").bundle
    assert made.metadata["training"] == {"weights_sha256": made.weights_sha256, "fold": 0}
    assert find_bundle(bundle.folder).weights_sha256 == digest != made.weights_sha256


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    bundle = large_bundle(tmp_path / "bundle")
    with pytest.raises(UsageError, match=r"is not empty\. Choose another folder"):
        shrink_bundle(bundle, bundle.folder)


def test_a_place_that_can_not_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    bundle = large_bundle(tmp_path / "bundle")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can not write to"):
        shrink_bundle(bundle, tmp_path / "file" / "small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file"]
