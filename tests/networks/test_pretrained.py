"""Pretrained weights: which files load, how they are fitted, what is refused, and what happens offline."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from scanloom.networks import ResNetUNet, pretrained
from scanloom.networks.pretrained import check_sha256, fit_channels, imagenet_file, inflate, load_encoder
from scanloom.networks.resnet_encoder import ResNetEncoder
from torch import Tensor

State = dict[str, Tensor]
NARROW = (2, 2, 2, 2, 2)


def make_state(**options) -> State:
    """A state dict of a ResNet-18 with random statistics, as torchvision's files have it: no batch counters."""
    state = ResNetEncoder(**{"depth": 18, **options}).state_dict()
    for name, tensor in state.items():
        if "running" in name:
            tensor.uniform_(0.5, 1.0)
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def state() -> State:
    """One for the tests that do not change its tensors."""
    return make_state()


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def make_network(path: Path | str | bool, **options) -> ResNetUNet:
    return ResNetUNet(**{"pretrained": path, "depth": 18, "decoder_features": NARROW, **options}).eval()


def loaded_encoder(state: State, **options) -> ResNetEncoder:
    encoder = ResNetEncoder(18, **options).eval()
    load_encoder(encoder, state, "weights.pth")
    return encoder


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> Path:
    """A file that stands in for torchvision's ResNet-18, published under a name with its SHA-256."""
    draft = write(folder / "draft.pth", content)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    file = draft.rename(folder / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setitem(pretrained.IMAGENET_FILES, 18, file.name)
    monkeypatch.setattr(pretrained, "SOURCE", f"{folder.as_uri()}/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    return file


@pytest.mark.parametrize("as_text", [True, False])
def test_a_torchvision_file_loads_as_it_is_without_its_classifier(tmp_path: Path, state: State, as_text: bool) -> None:
    path = write(tmp_path / "weights.pth", {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)})
    loaded = make_network(str(path) if as_text else path).encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_true_downloads_the_published_file_once_and_checks_it(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    file = publish(tmp_path, monkeypatch, state)
    first = make_network(True)
    file.unlink()
    second = make_network(True)
    for network in (first, second):
        assert torch.equal(network.encoder.conv1.weight, state["conv1.weight"])
    assert capfd.readouterr().err == ""


def test_a_download_with_other_bytes_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(tmp_path, monkeypatch, {})
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"resnet18-.*invalid hash value.*pass the path of a good copy"):
        imagenet_file(18)
    assert not list((tmp_path / "hub").rglob("*.pth*"))


def test_a_damaged_file_with_a_published_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(tmp_path, monkeypatch, {})
    check_sha256(file)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"the SHA-256 begins with .* Delete it and fetch"):
        make_network(file)


def test_offline_the_error_says_how_to_pass_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(
        OSError, match=r"https://download.pytorch.org/models/resnet50-0676ba61.pth .*no route to host"
    ) as e:
        ResNetUNet()
    assert "pass its path as `pretrained`" in str(e.value)


def test_false_touches_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    make_network(False)


@pytest.mark.parametrize("depth", pretrained.IMAGENET_FILES)
def test_a_published_name_holds_eight_hex_digits_of_the_sha256(depth: int) -> None:
    stem = Path(pretrained.IMAGENET_FILES[depth]).stem
    name, _, digits = stem.partition("-")
    assert name == f"resnet{depth}"
    assert len(bytes.fromhex(digits)) == 4


def test_one_channel_responds_to_a_grey_image_as_three_equal_ones_do(state: State) -> None:
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = loaded_encoder(state)(grey.expand(1, 3, 32, 32))
        found = loaded_encoder(state, in_channels=1)(grey)
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_further_channels_take_the_filters_in_turn_and_share_the_response() -> None:
    weight = torch.randn(5, 3, 7, 7)
    fitted = fit_channels(weight, 5)
    torch.testing.assert_close(fitted, weight[:, [0, 1, 2, 0, 1]] * 0.6)
    torch.testing.assert_close(fit_channels(weight, 6).sum(1), weight.sum(1))
    torch.testing.assert_close(fit_channels(weight[:, :1], 4).sum(1), weight[:, 0])
    assert fit_channels(weight, 3) is weight


@pytest.mark.parametrize("channels", [1, 3])
def test_inflated_weights_respond_to_a_constant_axis_as_in_2d(state: State, channels: int) -> None:
    image = torch.randn(1, channels, 32, 32)
    with torch.no_grad():
        flat = loaded_encoder(state, in_channels=channels)
        deep = loaded_encoder(state, in_channels=channels, spatial_dims=3)
        expected = flat.layer1(flat.maxpool(flat.relu(flat.bn1(flat.conv1(image)))))
        volume = image.unsqueeze(-1).expand(1, channels, 32, 32, 96)
        found = deep.layer1(deep.maxpool(deep.relu(deep.bn1(deep.conv1(volume)))))
    # layer1 sees 21 voxels to each side: six of its own, at stride 4, have nothing of the padding
    inside = found[..., 6:-6]
    assert inside.shape[-1] == 12
    torch.testing.assert_close(
        inside, expected.unsqueeze(-1).expand_as(inside), rtol=1e-4, atol=1e-4 * float(expected.max())
    )


def test_only_a_2d_kernel_is_inflated() -> None:
    kernel, bias = torch.randn(2, 3, 5, 5), torch.randn(2)
    assert inflate(kernel, 5).shape == (2, 3, 5, 5, 5)
    torch.testing.assert_close(inflate(kernel, 5).sum(-1), kernel)
    assert inflate(kernel, 4) is kernel
    assert inflate(bias, 1) is bias


def test_a_medicalnet_file_loads_in_3d(tmp_path: Path) -> None:
    state = make_state(in_channels=1, spatial_dims=3, shortcut="A")
    head = {"conv_seg.0.weight": torch.zeros(3), "conv_seg.0.bias": torch.zeros(3)}
    checkpoint = {
        "ecpoch": 30,
        "batch_id": 0,
        "state_dict": {f"module.{name}": tensor for name, tensor in {**state, **head}.items()},
        "optimizer": {"state": {}, "param_groups": []},
    }
    path = write(tmp_path / "resnet_18.pth", checkpoint)
    loaded = make_network(path, in_channels=1, spatial_dims=3, shortcut="A").encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(("file", "network"), [("A", "B"), ("B", "A")])
def test_the_wrong_shortcut_is_refused_with_the_right_one(file: str, network: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f'weights: pass shortcut="{file}"'):
        load_encoder(ResNetEncoder(18, shortcut=network), make_state(shortcut=file), "weights.pth")


def test_missing_and_unexpected_keys_are_named(state: State) -> None:
    state = dict(state)
    state["layer9.weight"] = state.pop("conv1.weight")
    del state["bn1.bias"]
    with pytest.raises(
        ValueError,
        match=r"weights\.pth: not the weights of this encoder\. Missing: conv1\.weight, bn1\.bias\. "
        r"Unexpected: layer9\.weight\.$",
    ):
        load_encoder(ResNetEncoder(18), state, "weights.pth")


def test_many_missing_keys_are_counted() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"Missing: conv1\.weight, .* and \d+ more\.$"):
        load_encoder(ResNetEncoder(18), {}, "weights.pth")


def test_another_depth_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"Unexpected: layer1\.2\.conv1\.weight"):
        load_encoder(ResNetEncoder(18), make_state(depth=34), "weights.pth")


def test_3d_weights_do_not_fit_a_2d_network() -> None:
    with (
        torch.device("meta"),
        pytest.raises(
            ValueError, match=r"conv1\.weight has shape \(64, 3, 7, 7, 7\); this encoder has \(64, 3, 7, 7\)"
        ),
    ):
        load_encoder(ResNetEncoder(18), make_state(spatial_dims=3), "weights.pth")


def test_a_refused_file_leaves_the_encoder_as_it_was(state: State) -> None:
    encoder = ResNetEncoder(18)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = {**state, "layer4.1.bn2.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"layer4\.1\.bn2\.bias has shape \(3,\)"):
        load_encoder(encoder, state, "weights.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


class Code:
    """What a malicious checkpoint would hold: an object whose unpickling calls a function."""

    def __reduce__(self) -> tuple:
        return print, ("ran",)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Code()}, path)
    with pytest.raises(ValueError, match=r"not a file of tensors that torch\.load\(weights_only=True\) reads"):
        make_network(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", pickle.dumps([1, 2], protocol=2), b"not a checkpoint"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: not a "):
        make_network(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": [1]}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match="not a state dict, that is a mapping of names to tensors"):
        make_network(write(tmp_path / "weights.pth", content))


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        make_network(tmp_path / "nowhere.pth")
