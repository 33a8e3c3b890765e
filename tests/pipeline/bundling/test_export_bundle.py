"""Exported networks compute what the bundle's does, of any size, carry its texts, and tell nothing of the machine."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from factories import make_bundle
from monai.networks.nets import UNet as MonaiUNet
from scanloom.networks import ResNetUNet
from scanloom.pipeline.bundle import SHIPPED, Bundle, bundle_digest, find_bundle
from scanloom.pipeline.bundle_network import load_network
from scanloom.pipeline.bundling import export, export_formats
from scanloom.pipeline.bundling.export import TEXTS, TOLERANCE, Check, export_bundle
from scanloom.pipeline.bundling.export_formats import FORMATS, Onnx, TorchScript
from scanloom.pipeline.bundling.export_sizes import windows_for
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from torch import nn

SUFFIX = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}
SPACE = ("batch", "x", "y", "z")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Deciding(nn.Module):
    """Asks for a value, which no program of `torch.export` can."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 1)

    def forward(self, image):
        return self.convolution(image) * (2 if image.sum().item() > 0 else 1)


class Counting(nn.Module):
    """Returns two things."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 1)

    def forward(self, image):
        return self.convolution(image), image


class Drifting(nn.Module):
    """Gives other logits each time."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 1)
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return self.convolution(image) + self.calls


def bundle_with(folder: Path, network: nn.Module, target: str, roi_size=(16, 16, 16), **settings) -> Bundle:
    """A bundle of another network, given with its target and settings."""
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [*roi_size]}
    bundle = make_bundle(folder, config={"network_def": {"_target_": target, **settings}, "inferer": inferer})
    torch.save(network.state_dict(), bundle.weights)
    return bundle


def resnet_bundle(folder: Path) -> Bundle:
    settings = {
        "num_classes": 2, "pretrained": False, "depth": 18, "in_channels": 1, "decoder_features": [4, 4, 4, 4, 4]
    }  # fmt: skip
    return bundle_with(folder, ResNetUNet(**settings), "scanloom.networks.ResNetUNet", (64, 64), **settings)


@pytest.mark.parametrize("to", SUFFIX)
def test_every_format_computes_what_the_network_does_of_any_size(tmp_path, to):
    bundle = make_bundle(tmp_path / "b")
    network = load_network(bundle).eval()
    exported = export_bundle(bundle, tmp_path / f"n{SUFFIX[to]}", to)
    assert exported.free_axes == SPACE
    assert len(exported.checks) == 2 and {check.shape[0] for check in exported.checks} == {1, 2}
    assert all(check.passed and check.largest > 0.1 for check in exported.checks)
    assert exported.size == exported.path.stat().st_size
    loaded = FORMATS[to].load(exported.path)
    for shape in [(1, 1, 12, 8, 8), (3, 1, 9, 16, 11)]:
        windows = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(loaded(windows), network(windows), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("to", SUFFIX)
def test_the_texts_travel_inside_and_nothing_of_the_machine(tmp_path, to):
    bundle = make_bundle(tmp_path / "b", task="to test")
    exported = export_bundle(bundle, tmp_path / f"n{SUFFIX[to]}", to)
    texts = {name: json.loads(text) for name, text in FORMATS[to].texts(exported.path, TEXTS).items()}
    assert texts["metadata.json"] == dict(bundle.metadata)
    assert texts["inference.json"] == json.loads(bundle.config("inference").read_text())
    facts = texts["export.json"]
    assert (facts["bundle"], facts["version"], facts["format"]) == ("tiny", "0.0.1", to)
    assert facts["bundle_sha256"] == bundle_digest(bundle) and facts["weights_sha256"] == bundle.weights_sha256
    assert facts["input"] == {
        "name": "image", "axes": ["batch", "channel", "x", "y", "z"], "free_axes": [*SPACE],
        "shape": [None, 1, None, None, None], "dtype": "float32",
    }  # fmt: skip
    content = exported.path.read_bytes()
    if zipfile.is_zipfile(exported.path):
        with zipfile.ZipFile(exported.path) as archive:
            content += b"".join(archive.read(name) for name in archive.namelist())
    for word in (str(tmp_path), str(Path(torch.__file__).parent), str(Path.cwd()), str(Path.home())):
        assert word.encode() not in content


@pytest.mark.parametrize("to", SUFFIX)
def test_a_resnet_in_two_dimensions_is_exported_with_every_axis_free(tmp_path, to):
    exported = export_bundle(resnet_bundle(tmp_path / "b"), tmp_path / f"n{SUFFIX[to]}", to)
    assert exported.free_axes == ("batch", "x", "y")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hippocampus_mr_unet", "membrane_em_resnetunet"])
@pytest.mark.parametrize("to", SUFFIX)
def test_the_shipped_bundles_are_exported_with_every_axis_free(tmp_path, name, to):
    if not (SHIPPED / name / "models" / "model.pt").is_file():
        pytest.skip(f"{name} has no weights here")
    bundle = find_bundle(name)
    exported = export_bundle(bundle, tmp_path / f"n{SUFFIX[to]}", to)
    assert exported.free_axes == SPACE[: len(exported.checks[0].shape) - 1]


def test_an_onnx_file_names_its_input_output_and_axes(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = export_bundle(make_bundle(tmp_path / "b"), tmp_path / "n.onnx", "onnx").path
    graph = onnx.load(path).graph
    ((image,), (pred,)) = graph.input, graph.output
    assert (image.name, pred.name) == ("image", "pred")
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 1, "x", "y", "z"]
    assert [dim.dim_param or dim.dim_value for dim in pred.type.tensor_type.shape.dim] == ["batch", 3, "x", "y", "z"]


@pytest.mark.parametrize(("to", "load"), [("torchscript", "torch.jit.load"), ("pt2", "torch.export.load")])
def test_a_file_runs_where_neither_scanloom_nor_monai_is(tmp_path, to, load):
    path = export_bundle(make_bundle(tmp_path / "b"), tmp_path / f"n{SUFFIX[to]}", to).path
    code = (
        "import sys, torch; sys.modules['scanloom'] = sys.modules['monai'] = None; "
        f"made = {load}({str(path)!r}); made = made.module() if hasattr(made, 'graph_signature') else made; "
        "print(tuple(made(torch.zeros(1, 1, 9, 10, 11)).shape))"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "(1, 3, 9, 10, 11)\n"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_without_padding_is_exported_with_sizes_that_it_takes(tmp_path, channels):
    from scanloom.networks import UNet

    settings = {"in_channels": channels, "out_channels": 1, "features": [2, 4], "strides": [2]}
    bundle = bundle_with(tmp_path / "b", UNet(**settings, depth=1), "scanloom.networks.UNet", (28, 28), **settings)
    exported = export_bundle(bundle, tmp_path / "n.pt2", "pt2")
    assert exported.free_axes == ("batch", "x", "y")
    assert exported.checks[0].shape[1] == channels and exported.checks[0].shape[2:] != exported.checks[1].shape[2:]


def test_a_network_of_others_keeps_the_size_of_the_bundles_windows(tmp_path):
    settings = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 8], "strides": [2, 2]}
    bundle = bundle_with(tmp_path / "b", MonaiUNet(**settings), "monai.networks.nets.UNet", (16, 8, 12), **settings)
    exported = export_bundle(bundle, tmp_path / "n.pt2", "pt2")
    assert exported.free_axes == ("batch",)
    assert [check.shape for check in exported.checks] == [(2, 1, 16, 8, 12), (1, 1, 16, 8, 12)]
    assert "takes any batch; torch.export.load reads it" in exported.lines()


def test_where_no_axis_can_be_free_a_file_of_one_size_is_made(tmp_path, monkeypatch):
    true_write, tried = export_formats.Program.write, []

    def write(self, path, network, example, free_axes, texts):
        tried.append(tuple(free_axes))
        if free_axes:
            raise RuntimeError("not free")
        true_write(self, path, network, example, free_axes, texts)

    monkeypatch.setattr(export_formats.Program, "write", write)
    exported = export_bundle(make_bundle(tmp_path / "b"), tmp_path / "n.pt2", "pt2")
    assert tried == [(0, 2, 3, 4), (0,), ()]
    assert exported.free_axes == () and {check.shape for check in exported.checks} == {(1, 1, 12, 12, 12)}
    assert "takes one size; torch.export.load reads it" in exported.lines()


def test_a_network_that_no_program_can_hold_is_refused_and_nothing_is_left(tmp_path):
    bundle = bundle_with(tmp_path / "b", Deciding(), f"{__name__}.Deciding")
    path = tmp_path / "out" / "n.pt2"
    with pytest.raises(
        BundleError, match=r"bundle tiny: Deciding: it can not become pt2: .*Export to another"
    ) as caught:
        export_bundle(bundle, path, "pt2")
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_a_trace_that_computes_something_else_is_refused_and_what_was_there_stays(tmp_path):
    path = tmp_path / "n.ts"
    path.write_text("old")
    bundle = bundle_with(tmp_path / "b", Drifting(), f"{__name__}.Drifting")
    words = (
        r"Drifting: the file does not compute what the network does: .*: logits differ by .*Export to another format"
    )
    with pytest.raises(BundleError, match=words):
        export_bundle(bundle, path, "torchscript")
    assert path.read_text() == "old" and sorted(each.name for each in tmp_path.iterdir()) == ["b", "n.ts"]


def test_a_file_of_another_shape_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TorchScript, "load", lambda self, path: lambda windows: windows)
    with pytest.raises(
        BundleError, match=r"the file does not compute what the network does: \(.*\) for \(.*\)\. Export"
    ):
        export_bundle(make_bundle(tmp_path / "b"), tmp_path / "n.ts", "torchscript")


def test_a_network_of_several_outputs_is_refused(tmp_path):
    bundle = bundle_with(tmp_path / "b", Counting(), f"{__name__}.Counting")
    with pytest.raises(BundleError, match="can not become torchscript: the network returns something else than one"):
        export_bundle(bundle, tmp_path / "n.ts", "torchscript")


@pytest.mark.parametrize(
    ("difference", "largest", "agreement", "passed"),
    [
        (9e-5, 0.5, 1, True),
        (2e-4, 0.5, 1, False),
        (9e-3, 100, 1, True),
        (0, 1, 0.99, False),
        (float("nan"), 1, 1, False),
    ],
)
def test_a_check_passes_within_the_tolerance_only(difference, largest, agreement, passed):
    assert Check((1, 1, 8, 8), difference, largest, agreement).passed == passed


@pytest.mark.parametrize(
    ("to", "name", "words"),
    [
        ("tflite", "n.tflite", r"--to tflite: there is no such format\. Use one of onnx, torchscript, pt2"),
        ("onnx", "n.pt", r"-o .*n\.pt: onnx is a \.onnx file"),
        ("torchscript", "n.onnx", r"torchscript is a \.ts or \.pt file"),
        ("pt2", "folder.pt2", "is a folder. Name the file"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_built(tmp_path, monkeypatch, to, name, words):
    (tmp_path / "folder.pt2").mkdir()
    monkeypatch.setattr(export, "load_network", lambda bundle: pytest.fail("built"))
    with pytest.raises(UsageError, match=words):
        export_bundle(Bundle(tmp_path, {}), tmp_path / name, to)


def test_a_missing_package_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        UsageError, match=re.escape("--to onnx: onnxscript is not installed. pip install 'scanloom[onnx]'")
    ):
        export_bundle(Bundle(tmp_path, {}), tmp_path / "n.onnx", "onnx")


def test_a_full_disk_is_no_fault_of_the_network(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TorchScript, "write", full)
    with pytest.raises(PipelineError, match=r"n\.ts: can not be written \(No space left on device\)"):
        export_bundle(make_bundle(tmp_path / "b"), tmp_path / "n.ts", "torchscript")


def test_a_network_of_which_nothing_is_known_needs_its_format_described(tmp_path):
    bundle = make_bundle(tmp_path, config={"inferer": {"_target_": "SimpleInferer"}})
    with pytest.raises(
        BundleError, match=r"bundle tiny: neither its network nor network_data_format .* how many channels"
    ):
        windows_for(nn.Identity(), bundle)
    image = {"num_channels": 2, "spatial_shape": ["n", "n"]}
    described = Bundle(bundle.folder, bundle.metadata | {"network_data_format": {"inputs": {"image": image}}})
    tries = windows_for(nn.Identity(), described)
    assert [each.free_axes for each in tries] == [(0,), ()]
    assert [tuple(each.first.shape) for each in tries] == [(2, 2, 64, 64), (1, 2, 64, 64)]


def test_onnx_is_read_by_its_own_runtime():
    assert isinstance(FORMATS["onnx"], Onnx) and FORMATS["onnx"].reader == "ONNX Runtime"
