"""Pictures from file to files: a 2D network on PNG and TIFF, as the command line and MONAI's own run it."""

import json
import shutil

import numpy as np
import pytest
import torch
from factories import make_bundle
from PIL import Image
from scanloom.networks import ResNetUNet
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.segment import PredictOptions, predict

NETWORK = {
    "num_classes": 2,
    "pretrained": False,
    "depth": 18,
    "in_channels": 1,
    "decoder_features": [8, 8, 4, 4, 4],
}
STEPS = [
    {
        "_target_": "LoadImaged",
        "keys": "image",
        "reader": "scanloom.pipeline.studies.reader.StudyReader",
        "ensure_channel_first": True,
    },
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    {"_target_": "NormalizeIntensityd", "keys": "image"},
]
STREAMED = {
    "_target_": "scanloom.pipeline.inference.StreamingInferer",
    "roi_size": [704, 704],
    "mode": "seamless",
}
SLICES = {"_target_": "monai.inferers.SliceInferer", "roi_size": [64, 64], "spatial_dim": 2, "mode": "gaussian"}


def flat_bundle(folder, inferer=STREAMED):
    """A bundle of a small 2D ResNetUNet whose random weights give both labels a share."""
    config = {
        "network_def": {"_target_": "scanloom.networks.ResNetUNet", **NETWORK},
        "preprocessing": {"_target_": "Compose", "transforms": STEPS},
        "inferer": inferer,
    }
    bundle = make_bundle(folder, out_channels=2, config=config)
    torch.manual_seed(0)
    network = ResNetUNet(**NETWORK).eval()
    with torch.no_grad():
        logits = network(torch.randn(1, 1, 64, 64))
        network.head.bias -= logits.mean(dim=(0, 2, 3))
    torch.save(network.state_dict(), bundle.weights)
    return bundle, network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return flat_bundle(tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="module")
def stack():
    rng = np.random.default_rng(0)
    small = rng.normal(120, 40, (3, 12, 16))
    return np.clip(small.repeat(8, 1).repeat(8, 2) + rng.normal(0, 10, (3, 96, 128)), 0, 255).astype(np.uint8)


def by_hand(network, page):
    """Labels (rows, columns) of one page, by the network alone: turned as RAS has it, z-scored."""
    image = torch.from_numpy(np.ascontiguousarray(page.T[::-1, ::-1])).float()
    image = (image - image.mean()) / image.std(correction=0)
    with torch.no_grad():
        labels = network(image[None, None])[0].argmax(0).numpy()
    return labels[::-1, ::-1].T


def test_a_picture_goes_in_and_a_picture_of_labels_comes_out(tmp_path, bundle, stack):
    file = tmp_path / "in" / "cells.png"
    file.parent.mkdir()
    Image.fromarray(stack[0]).save(file)
    (result,) = predict(bundle[0], PredictOptions([file], tmp_path / "out", trust_bundle=True))
    assert result.error is None
    folder = tmp_path / "out" / "cells"
    with Image.open(folder / "labels.tif") as picture:
        labels = np.asarray(picture)
    expected = by_hand(bundle[1], stack[0])
    assert 0.05 < expected.mean() < 0.95
    assert np.mean(labels != expected) < 1e-3  # the folded norms round differently where the two are as likely
    report = json.loads((folder / "report.json").read_text())
    assert {"labels.tif", "labels.nii.gz", "preview.png"} <= set(report["outputs"])
    assert "no-spacing" in json.dumps(report["warnings"])


@pytest.mark.parametrize("inferer", [STREAMED, SLICES])
def test_a_stack_is_its_pages(tmp_path, stack, inferer):
    bundle, network = flat_bundle(tmp_path / "bundle", inferer)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    volume = read_scan(tmp_path / "x.tif")
    labels = Predictor(bundle, device="cpu")(volume)
    assert labels.shape == (128, 96, 3)
    if inferer is STREAMED:  # the z-score is over the whole stack
        scaled = (stack - stack.mean(dtype=np.float64)) / stack.std(dtype=np.float64)
        for z, page in enumerate(scaled.astype(np.float32)):
            image = torch.from_numpy(np.ascontiguousarray(page.T[::-1, ::-1]))
            with torch.no_grad():
                expected = network(image[None, None])[0].argmax(0).numpy()[::-1, ::-1]
            assert np.mean(labels[..., z] != expected) < 1e-3


def test_a_dicom_object_of_a_picture_can_not_be(tmp_path, bundle, stack):
    Image.fromarray(stack[0]).save(tmp_path / "x.png")
    options = PredictOptions([tmp_path / "x.png"], tmp_path / "out", trust_bundle=True, formats=("dicom-seg",))
    (result,) = predict(bundle[0], options)
    assert isinstance(result.error, UsageError)
    assert "refers to DICOM instances and this input has none" in str(result.error)


def test_monais_own_way_of_running_a_bundle_takes_pictures(tmp_path, bundle, stack):
    """What `monai.bundle run` does with the config: the loader, the steps, the inferer on a tensor of five axes."""
    from monai.bundle import ConfigParser
    from monai.data import decollate_batch

    Image.fromarray(stack[1]).save(tmp_path / "x.png")
    parser = ConfigParser()
    parser.read_config(str(bundle[0].config("inference")))
    parser.update({"bundle_root": str(bundle[0].folder)})
    steps, inferer = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")
    image = steps({"image": str(tmp_path / "x.png")})["image"]
    assert tuple(image.shape) == (1, 128, 96, 1)
    with torch.no_grad():
        logits = inferer(image[None], bundle[1])
    (labels,) = decollate_batch(logits.argmax(1))
    assert np.array_equal(labels[..., 0].numpy()[::-1, ::-1].T, by_hand(bundle[1], stack[1]))


def test_a_dataset_of_pictures_is_read_as_cases(tmp_path, stack):
    from scanloom.pipeline.training.dataset import read_dataset
    from scanloom.pipeline.training.dataset_check import check_dataset

    for kind, pages in (("imagesTr", stack), ("labelsTr", (stack > 128).astype(np.uint8))):
        (tmp_path / kind).mkdir()
        for number, page in enumerate(pages):
            name = f"c{number}_0000.png" if kind == "imagesTr" else f"c{number}.png"
            Image.fromarray(page).save(tmp_path / kind / name)
    description = {"labels": {"background": 0, "cell": 1}, "channel_names": {"0": "EM"}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    assert [case.name for case in read_dataset(tmp_path)] == ["c0", "c1", "c2"]
    check = check_dataset(tmp_path, {1: "cell"}, read_scan, slices=True)
    check.require_faultless()
    shutil.copy(tmp_path / "imagesTr" / "c0_0000.png", tmp_path / "imagesTr" / "c0_0001.png")
    with pytest.raises(UsageError, match="several channels"):
        read_dataset(tmp_path)
