"""The inferer: equal to MONAI's, streamed from and to arrays of any size, on other grids, without background."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.utils import BlendMode
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.inference import StreamingInferer, estimate, streaming
from scanloom.pipeline.inference.facts import InferenceFacts
from scanloom.pipeline.inference.regrid import GridMap
from scanloom.pipeline.inference.scan import ArrayScan, TensorScan
from scipy.ndimage import map_coordinates
from torch import nn

TOLERANCE = 1e-5
"""Of logits, in shares of the largest: both sum float32 over some dozens of windows, in another order."""


class Convolved(nn.Module):
    """A network whose output depends on where a window ends: zeros are padded to it, and its own mean is taken off."""

    def __init__(self, channels=1, classes=3, dims=2):
        super().__init__()
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, classes, 3, padding=1)
        self.requires_grad_(False).eval()
        self.calls = 0

    def forward(self, x):
        self.calls += len(x)
        return self.layer(x - 0.2 * x.mean(dim=tuple(range(2, x.dim())), keepdim=True))


def close(result, expected, tolerance=TOLERANCE):
    assert result.shape == expected.shape
    scale = float(expected.abs().max()) or 1.0
    torch.testing.assert_close(result.double(), expected.double(), rtol=0, atol=tolerance * scale)


def same_labels(labels, logits):
    """Equal wherever the logits are not within rounding of a tie."""
    scores = logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)
    best = scores.topk(2, dim=1)
    clear = best.values[:, :1] - best.values[:, 1:] > 1e-4 * max(float(logits.abs().max()), 1e-6)
    assert labels.shape == (len(logits), 1, *logits.shape[2:])
    assert torch.equal(labels[clear].int(), best.indices[:, :1][clear].int())


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 2, 3]))
    size = tuple(draw(st.integers(1, 24 if dims == 2 else 12)) for _ in range(dims))
    roi = tuple(draw(st.integers(2, 10 if dims == 2 else 6) | st.sampled_from([-1, None])) for _ in range(dims))
    overlap = tuple(draw(st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 0.75)) for _ in range(dims))
    settings = {
        "roi_size": roi,
        "overlap": draw(st.sampled_from([overlap, overlap[0]])),
        "mode": draw(st.sampled_from(["constant", "gaussian"])),
        "sigma_scale": draw(st.sampled_from([0.125, 0.3, (0.1, 0.2, 0.4)[:dims]])),
        "sw_batch_size": draw(st.integers(1, 5)),
        "cval": draw(st.sampled_from([0.0, -2.5])),
    }
    inputs = draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size
    return settings, inputs, draw(st.integers(1, 5)), draw(st.integers(0, 2**31))


@settings(deadline=None, max_examples=80)
@given(cases())
def test_logits_and_labels_are_those_of_monai(case):
    arguments, shape, classes, seed = case
    torch.manual_seed(seed)
    image, network = torch.randn(shape), Convolved(shape[1], classes, len(shape) - 2)
    before = image.clone()
    expected = SlidingWindowInferer(**arguments)(image, network)
    inferer = StreamingInferer(**arguments)
    close(inferer(image, network), expected)
    same_labels(StreamingInferer(**arguments, output="labels")(image, network), expected)
    assert torch.equal(image, before)
    assert inferer.facts.windows >= len(image)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("size", [(5, 7, 6), (5, 20, 7), (13, 6, 14)])
def test_an_image_smaller_than_a_window_is_padded_as_by_monai(mode, size):
    image, network = torch.randn(2, 1, *size), Convolved(dims=3)
    arguments = {"roi_size": (8, 8, 9), "overlap": 0.5, "mode": "gaussian", "padding_mode": mode}
    close(StreamingInferer(**arguments)(image, network), SlidingWindowInferer(**arguments)(image, network))


@pytest.mark.parametrize("mode", [BlendMode.GAUSSIAN, "gaussian"])
@pytest.mark.parametrize("roi_size", [8, (8, 12), [12, -1]])
def test_arguments_have_the_types_that_they_have_for_monai(mode, roi_size):
    image, network = torch.randn(1, 1, 20, 23), Convolved()
    arguments = roi_size, 2, 0.5, mode
    close(StreamingInferer(*arguments)(image, network), SlidingWindowInferer(*arguments)(image, network))


def test_one_like_monais_does_the_same():
    monai = SlidingWindowInferer(
        (8, -1), 3, (0.5, 0.25), "gaussian", 0.2, "reflect", cpu_thresh=10, buffer_steps=1, buffer_dim=0,
        device="cpu", sw_device="cpu",
    )  # fmt: skip
    image, network = torch.randn(1, 1, 20, 23), Convolved()
    inferer = StreamingInferer.like(monai)
    assert (inferer.sw_batch_size, inferer.buffer_dim, inferer.cpu_thresh, inferer.padding.mode) == (
        3,
        0,
        10,
        "reflect",
    )
    close(inferer(image, network), monai(image, network))


@pytest.mark.parametrize("structure", [tuple, list, dict])
def test_the_structure_of_several_outputs_is_kept(structure):
    one, other = Convolved(classes=3), Convolved(classes=1)

    def network(x):
        return {"b": one(x), "a": other(x)} if structure is dict else structure([one(x), other(x)])

    image = torch.randn(2, 1, 20, 23)
    arguments = {"roi_size": 8, "overlap": 0.5, "mode": "gaussian", "sw_batch_size": 3}
    result = StreamingInferer(**arguments)(image, network)
    expected = SlidingWindowInferer(**arguments)(image, network)
    assert type(result) is type(expected) is (dict if structure is dict else tuple)
    if structure is dict:
        assert list(result) == list(expected) == ["a", "b"]
        result, expected = result.values(), expected.values()
    for each, should in zip(result, expected, strict=True):
        close(each, should)
    labels = StreamingInferer(**arguments, output="labels")(image, network)
    for each, should in zip(labels.values() if structure is dict else labels, expected, strict=True):
        same_labels(each, should)


def test_a_tuple_of_one_output_is_that_output():
    image, network = torch.randn(1, 1, 20, 23), Convolved()
    result = StreamingInferer(8)(image, lambda x: (network(x),))
    close(result, SlidingWindowInferer(8)(image, lambda x: (network(x),)))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(3, 25), st.integers(3, 25)),
    st.tuples(st.sampled_from([4, 6, 8]), st.sampled_from([4, 6, 8])),
    st.sampled_from([0.0, 0.25, 0.5, 0.6]),
    st.sampled_from([0.5, 1.5, 2.0, (0.5, 1.0)]),
    st.sampled_from(["constant", "gaussian"]),
)
def test_an_output_of_another_size_is_blended_as_by_monai(size, roi, overlap, factor, mode):
    body = Convolved(classes=2)

    def network(x):
        return nn.functional.interpolate(body(x), scale_factor=factor)

    image = torch.randn(2, 1, *size)
    arguments = {"roi_size": roi, "overlap": overlap, "mode": mode}
    try:
        expected = SlidingWindowInferer(**arguments)(image, network)
    except RuntimeError:  # its windows do not fit into its output
        assume(False)
    assume(bool(expected.isfinite().all()))  # it divides by zero where windows leave gaps
    close(StreamingInferer(**arguments)(image, network), expected)
    same_labels(StreamingInferer(**arguments, output="labels")(image, network), expected)


def test_outputs_of_several_sizes_are_each_blended_on_their_own_grid():
    body = Convolved(classes=2, dims=3)

    def network(x):
        return {"full": body(x), "half": nn.functional.avg_pool3d(body(x), 2)}

    image = torch.randn(1, 1, 20, 12, 16)
    arguments = {"roi_size": 8, "overlap": 0.5, "mode": "gaussian"}
    result = StreamingInferer(**arguments)(image, network)
    for name in ("full", "half"):  # one at a time: MONAI goes on with the weights of the first size
        close(result[name], SlidingWindowInferer(**arguments)(image, lambda x, name=name: network(x)[name]))


@pytest.mark.parametrize("size", [(20, 23), (5, 23)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_is_told_the_places_that_monai_tells(size, batch):
    body = Convolved()

    def network(x, places, seen):
        seen += [tuple((part.start, part.stop) for part in (place[0], *place[2:])) for place in places]
        shifts = [place[2].start + 10 * place[3].start + 100 * (place[0].start or 0) for place in places]
        return body(x) + torch.tensor(shifts).view(-1, 1, 1, 1)

    image, seen, monai = torch.randn(2, 1, *size), [], []
    arguments = {"roi_size": 8, "overlap": 0.5, "sw_batch_size": batch, "with_coord": True}
    close(StreamingInferer(**arguments)(image, network, seen), SlidingWindowInferer(**arguments)(image, network, monai))
    assert {place[0][0] for place in seen} == {0, 1}
    assert len(seen) == len(monai)
    assert set(seen) == set(monai)


@pytest.mark.parametrize("size", [(20, 23), (5, 23)])
def test_a_condition_is_cut_into_windows_as_by_monai(size):
    body = Convolved(2)

    def network(x, weight, *, condition, shift):
        return weight * body(torch.cat([x, condition], dim=1)) + shift

    image, condition = torch.randn(2, 1, *size), torch.randn(2, 1, *size)
    arguments = {"roi_size": 8, "overlap": 0.5, "sw_batch_size": 3, "cval": 1.0}
    results = [
        inferer(**arguments)(image, network, 2.0, condition=condition, shift=1.0)
        for inferer in (StreamingInferer, SlidingWindowInferer)
    ]
    close(*results)


def test_a_condition_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"condition is \(1, 1, 9, 8\); it must have the inputs' \(1, 1, 9, 9\)"):
        StreamingInferer(4)(torch.zeros(1, 1, 9, 9), Convolved(), condition=torch.zeros(1, 1, 9, 8))


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_a_metatensor_comes_out_with_its_meta(output):
    affine = torch.diag(torch.tensor([2.0, 3, 4, 1]))
    image = MetaTensor(torch.randn(2, 1, 12, 10, 9), affine=affine, meta={"case": "a"})
    network = Convolved(dims=3)
    seen = []

    def plain(x):
        seen.append(type(x))
        return network(x)

    result = StreamingInferer(6, overlap=0.5, output=output)(image, plain)
    expected = SlidingWindowInferer(6, overlap=0.5)(image, network)
    assert isinstance(result, MetaTensor)
    assert result.meta.keys() == expected.meta.keys()
    assert result.meta["case"] == "a"
    assert torch.equal(result.affine, expected.affine)
    assert set(seen) == {torch.Tensor}
    if output == "logits":
        close(result.as_tensor(), expected.as_tensor())


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 5e-3)])
def test_the_type_of_the_image_is_the_type_of_the_logits(kind, tolerance):
    """MONAI sums in that type: float16 has eleven bits."""
    image, network = torch.randn(1, 1, 20, 23, dtype=kind), Convolved().to(kind)
    arguments = {"roi_size": 8, "overlap": 0.5, "mode": "gaussian"}
    result = StreamingInferer(**arguments)(image, network)
    expected = SlidingWindowInferer(**arguments)(image, network)
    assert result.dtype == expected.dtype == kind
    close(result, expected, tolerance)


def test_an_image_of_integers_has_logits_of_float32():
    image, network = torch.randint(-9, 9, (1, 1, 20, 23), dtype=torch.int16), Convolved()
    result = StreamingInferer(8, overlap=0.5)(image, network)
    assert result.dtype == torch.float32
    close(result, SlidingWindowInferer(8, overlap=0.5)(image.float(), network))


@pytest.mark.parametrize(("classes", "kind"), [(1, torch.uint8), (256, torch.uint8), (257, torch.uint16)])
def test_labels_have_the_smallest_type(classes, kind):
    image, network = torch.randn(1, 1, 12, 13), Convolved(classes=classes)
    labels = StreamingInferer(8, overlap=0.5, output="labels")(image, network)
    assert labels.dtype == kind
    same_labels(labels, SlidingWindowInferer(8, overlap=0.5)(image, network))


@pytest.mark.parametrize("classes", [1, 4])
def test_probabilities_are_of_the_blended_logits(classes):
    image, network = torch.randn(2, 1, 20, 23), Convolved(classes=classes)
    logits = SlidingWindowInferer(8, overlap=0.5)(image, network)
    expected = logits.sigmoid() if classes == 1 else logits.softmax(1)
    close(StreamingInferer(8, overlap=0.5, output="probabilities")(image, network), expected)


def test_a_function_of_ones_own_is_given_the_logits():
    image, network = torch.randn(2, 1, 20, 23), Convolved(classes=4)
    result = StreamingInferer(8, overlap=0.5, output=lambda box: box.topk(2, dim=0).indices)(image, network)
    logits = SlidingWindowInferer(8, overlap=0.5)(image, network)
    assert (result.dtype, result.shape) == (torch.int64, (2, 2, 20, 23))
    assert torch.equal(result, logits.topk(2, dim=1).indices)


@pytest.mark.parametrize("steps", [None, -1, 0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_buffer_dim_decides_the_visit_and_not_the_result(steps, axis):
    image, network, places = torch.randn(1, 1, 20, 30), Convolved(), []

    def recorded(x, where):
        places.extend((place[2].start, place[3].start) for place in where)
        return network(x)

    plain = {"roi_size": 8, "overlap": 0.5}
    arguments = {**plain, "buffer_steps": steps, "buffer_dim": axis}
    result = StreamingInferer(**arguments, with_coord=True)(image, recorded)
    close(result, SlidingWindowInferer(**arguments)(image, network))
    called = StreamingInferer(**plain)(image, network, buffer_steps=steps, buffer_dim=axis)
    assert torch.equal(called, result)
    if steps is not None and steps > 0:
        outer = [place[axis % 2] for place in places]
        assert outer == sorted(outer)


def test_a_buffer_dim_that_the_image_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"buffer_dim is 2; the image has 2 spatial axes"):
        StreamingInferer(8, buffer_steps=1, buffer_dim=2)(torch.zeros(1, 1, 9, 9), Convolved())


def test_device_and_cpu_thresh_say_where_the_result_is():
    image, network = torch.randn(1, 1, 12, 12), Convolved()
    assert StreamingInferer(8, device="meta")(image, network).is_meta
    assert StreamingInferer(8)(image, network, device="meta").is_meta
    assert not StreamingInferer(8, cpu_thresh=1)(image, network).is_meta
    assert StreamingInferer(8, cpu_thresh=1, device="meta")(image, network).is_meta  # as for MONAI


def test_a_large_image_on_a_device_has_its_result_on_the_host():
    """The image is on no real device: nothing is computed, but the place of the result is made."""
    image = torch.empty(1, 1, 12, 12, device="meta")
    for threshold, device in ((100, "cpu"), (144, "meta"), (None, "meta")):
        inferer = StreamingInferer(8, cpu_thresh=threshold, sw_device="cpu")
        made = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming, "Results", lambda output, inputs, device, made=made: made.append(device) or 1 / 0)
            with pytest.raises(ZeroDivisionError):
                inferer(image, Convolved())
        assert made == [torch.device(device)]


def test_a_network_with_gradients_on_is_run_without():
    network = Convolved().requires_grad_(True)
    image = torch.randn(1, 1, 20, 23, requires_grad=True)
    result = StreamingInferer(8, overlap=0.5)(image, network)
    assert not result.requires_grad
    close(result, SlidingWindowInferer(8, overlap=0.5)(image, network).detach())
    assert not StreamingInferer(8)(image, lambda x: x).requires_grad


def test_the_image_is_not_changed_by_a_network_that_gives_it_back():
    image = torch.randn(1, 2, 20, 23)
    before = image.clone()
    close(StreamingInferer(8, overlap=0.5, mode="gaussian")(image, nn.Identity()), before)
    assert torch.equal(image, before)


def test_several_devices_give_the_same_result():
    image, network = torch.randn(2, 1, 20, 23), Convolved()
    one = StreamingInferer(8, 2, overlap=0.5, sw_device="cpu")(image, network)
    two = StreamingInferer(8, 2, overlap=0.5, sw_device=["cpu", torch.device("cpu")])(image, network)
    assert torch.equal(one, two)
    mirrored = [
        StreamingInferer(8, overlap=0.5, sw_device=devices, mirror_axes=(0,))(image, network)
        for devices in ("cpu", ["cpu", "cpu"])
    ]
    assert torch.equal(*mirrored)


def test_progress_is_told_on_request(capsys):
    image, network = torch.randn(2, 1, 40, 40), Convolved()
    StreamingInferer(8, overlap=0.5, progress=True)(image, network)
    assert "81 windows, about" in capsys.readouterr().err
    StreamingInferer(8, overlap=0.5)(image, network)
    assert capsys.readouterr().err == ""


def test_facts_are_of_the_whole_batch():
    inferer = StreamingInferer(8, overlap=0.5)
    assert inferer.facts == InferenceFacts()
    for _ in range(2):
        inferer(torch.randn(2, 1, 20, 8), Convolved())
        assert (inferer.facts.windows, inferer.facts.skipped, inferer.facts.notices) == (8, 0, [])
        assert inferer.facts.seconds > 0


def test_windows_of_a_network_that_does_not_see_their_border_agree():
    image = torch.randn(1, 1, 40, 40)
    for output in ("logits", "labels"):
        inferer = StreamingInferer(16, overlap=0.5, mode="gaussian", output=output)
        inferer(image, nn.Conv2d(1, 4, 1))
        assert inferer.facts.tile_disagreement == 0
        inferer(image, nn.Sequential(nn.InstanceNorm2d(1), nn.Conv2d(1, 4, 1)))
        assert 0 < inferer.facts.tile_disagreement < 0.5
    nothing = StreamingInferer(8, overlap=0)
    nothing(image, nn.Conv2d(1, 4, 1))
    assert nothing.facts.tile_disagreement is None


def test_the_disagreement_of_a_batch_is_the_worst_one():
    facts = InferenceFacts()
    for disagreement in (None, 0.1, 0.3, None, 0.2):
        facts.add(2, 1, 0.5, disagreement)
    assert facts == InferenceFacts(windows=10, skipped=5, seconds=2.5, tile_disagreement=0.3)


def test_out_of_memory_is_in_the_facts(caplog):
    network = Convolved()

    def small(x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return network(x)

    image = torch.randn(1, 1, 20, 23)
    inferer = StreamingInferer(8, 8, overlap=0.5)
    close(inferer(image, small), SlidingWindowInferer(8, 8, overlap=0.5)(image, network))
    said = ["out of memory: 4 windows at a time instead of 8", "out of memory: 2 windows at a time instead of 4"]
    assert inferer.facts.notices == said
    assert [record.getMessage() for record in caplog.records] == said


def test_out_of_memory_at_a_single_window_is_an_error_with_a_remedy():
    def never(x):
        raise torch.OutOfMemoryError("out of memory")

    inferer = StreamingInferer(8, 2)
    with pytest.raises(PipelineError, match=r"out of memory on cpu with one window of 8 x 8 voxels\. Choose smaller"):
        inferer(torch.randn(1, 1, 20, 23), never)
    assert inferer.facts.notices == ["out of memory: 1 windows at a time instead of 2"]


def test_a_result_that_finds_no_room_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(estimate, "available_bytes", lambda device: 5 * 1024)
    image, network = torch.zeros(1, 1, 20, 23), Convolved()
    with pytest.raises(PipelineError, match=r"the result, 1 x 3 x 20 x 23, needs 5\.4 KiB of memory on cpu"):
        StreamingInferer(8)(image, network)
    assert network.calls == 1
    assert StreamingInferer(8, output="labels")(image, network).shape == image.shape


# Background


def with_background(value=-1000.0):
    """An image of noise with background around it, in the first window, too."""
    image = torch.full((1, 1, 32, 40), value)
    image[..., 18:27, 10:23] = torch.randn(9, 13)
    return image


def computed(image, skip, roi, step):
    """Voxels that lie in a skipped window, in some computed window."""
    skipped, seen = torch.zeros(image.shape[2:], dtype=bool), torch.zeros(image.shape[2:], dtype=bool)
    for x in range(0, image.shape[2] - roi + 1, step):
        for y in range(0, image.shape[3] - roi + 1, step):
            where = (slice(x, x + roi), slice(y, y + roi))
            (skipped if skip(image[0, 0][where]) else seen)[where] = True
    return skipped, seen


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize(
    ("settings", "skip"),
    [
        ({"background_value": -1000.0}, lambda window: bool((window == -1000).all())),
        ({"background_below": -900.0}, lambda window: bool((window < -900).all())),
    ],
    ids=["value", "below"],
)
def test_windows_of_background_are_not_computed(settings, skip, overlap, classes):
    image, network = with_background(), Convolved(classes=classes)
    plain = StreamingInferer(8, overlap=overlap)(image, network)
    network.calls = 0
    inferer = StreamingInferer(8, overlap=overlap, **settings)
    logits = inferer(image, network)
    facts = inferer.facts
    assert 0 < facts.skipped < facts.windows
    assert network.calls == facts.windows - facts.skipped + 1  # the first window says how many channels there are
    skipped, seen = computed(image, skip, 8, int(8 * (1 - overlap)))
    assert torch.equal(logits[..., ~skipped], plain[..., ~skipped])
    labels = StreamingInferer(8, overlap=overlap, output="labels", **settings)(image, network)
    assert not labels[..., ~seen].any()
    expected = logits > 0 if classes == 1 else logits.argmax(1, keepdim=True)
    assert torch.equal(labels[..., seen], expected[..., seen].to(torch.uint8))
    probabilities = StreamingInferer(8, overlap=overlap, output="probabilities", **settings)(image, network)
    background = 1 - probabilities if classes == 1 else probabilities[:, :1]
    assert float(background[..., ~seen].min()) > 0.999999


def test_what_lies_in_a_skipped_window_too_is_decided_by_the_others():
    image, network = with_background(), Convolved()
    result = StreamingInferer(8, overlap=0.5, background_value=-1000.0)(image, network)

    def or_nothing(x):
        return torch.where((x == -1000).all().view(1, 1, 1, 1), torch.nan, network(x))

    def number(x):
        return torch.where((x == -1000).all().view(1, 1, 1, 1), 0.0, torch.ones_like(x))

    sums = StreamingInferer(8, overlap=0.5)(image, lambda x: torch.nan_to_num(or_nothing(x)))
    shares = StreamingInferer(8, overlap=0.5)(image, number)
    some = shares[0, 0] > 0
    close(result[..., some], (sums / shares)[..., some])


@pytest.mark.parametrize("output", ["logits", "labels", "probabilities"])
def test_an_image_of_background_alone_is_filled(output):
    image, network = torch.zeros(2, 1, 32, 40), Convolved()
    inferer = StreamingInferer(8, overlap=0.5, output=output, background_value=0.0)
    result = inferer(image, network)
    assert inferer.facts.skipped == inferer.facts.windows
    assert network.calls == 2
    assert not (result.argmax(1) if output != "labels" else result).any()
    assert inferer.facts.tile_disagreement is None


def test_background_below_needs_every_voxel_below():
    network = Convolved()
    inferer = StreamingInferer(8, overlap=0, background_below=0.0)
    image = torch.full((1, 1, 16, 16), -1.0)
    image[..., 3, 3] = 0.0
    inferer(image, network)
    assert (inferer.facts.windows, inferer.facts.skipped) == (4, 3)


# Streams


def spread(path, shape, kind="float32"):
    return np.memmap(path, kind, "w+", shape=shape)


@pytest.mark.parametrize("output", ["logits", "labels", "probabilities"])
def test_a_file_goes_through_to_a_file(tmp_path, output):
    source = spread(tmp_path / "in", (1, 40, 20, 17), "int16")
    source[:] = np.random.default_rng(0).integers(-100, 100, source.shape)
    network = Convolved(classes=4, dims=3)
    inferer = StreamingInferer(8, 2, overlap=0.5, mode="gaussian", output=output)
    made = []

    def make(shape, kind):
        made.append((shape, kind))
        return spread(tmp_path / "out", shape, torch.empty(0, dtype=kind).numpy().dtype)

    read = np.memmap(tmp_path / "in", "int16", "r", shape=source.shape)
    facts = inferer.stream(ArrayScan(read, prepare=lambda part: part / 50), network, make)
    image = torch.from_numpy(np.array(source)).float()[None] / 50
    expected = StreamingInferer(8, 2, overlap=0.5, mode="gaussian", output=output)(image, network)
    assert made == [((1 if output == "labels" else 4, 40, 20, 17), expected.dtype)]
    written = np.memmap(tmp_path / "out", torch.empty(0, dtype=expected.dtype).numpy().dtype, "r", shape=made[0][0])
    np.testing.assert_allclose(written, expected[0].numpy(), rtol=0, atol=1e-6)
    assert facts is inferer.facts
    assert facts.windows == 9 * 4 * 4


class Counted(TensorScan):
    """An image that counts the voxels that are read of it."""

    read_voxels = 0

    def read(self, region):
        part = super().read(region)
        self.read_voxels += part.numel()
        return part


def test_an_image_that_no_memory_would_hold_is_streamed():
    """2^36 voxels, 256 GiB as float32, that are one in truth; the first windows are enough to see."""
    scan, written = Counted(torch.ones(1, 1, 1, 1).expand(1, 2**12, 2**12, 2**12)), []

    class Disk:
        shape = (1, 2**12, 2**12, 2**12)

        def __getitem__(self, index):
            return self

        def __setitem__(self, where, block):
            written.append(block.shape)
            if len(written) == 10:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        StreamingInferer(32, overlap=0).stream(scan, lambda x: x, Disk())
    assert set(written) == {(1, 32, 32, 32)}
    assert scan.read_voxels == 10 * 32**3


def test_of_several_outputs_the_first_is_streamed():
    network = Convolved(classes=2)
    image, out = torch.randn(1, 20, 23), torch.empty(2, 20, 23)
    StreamingInferer(8, overlap=0.5).stream(TensorScan(image), lambda x: (network(x), x, x), out)
    close(out[None], SlidingWindowInferer(8, overlap=0.5)(image[None], network))


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"out is \(1, 20, 23\); the result is \(3, 20, 23\)\. Give one of this shape"):
        StreamingInferer(8).stream(TensorScan(torch.zeros(1, 20, 23)), Convolved(), np.zeros((1, 20, 23)))


def test_progress_of_a_stream_is_reported():
    told = []
    StreamingInferer(8, overlap=0.5).stream(
        TensorScan(torch.randn(1, 40, 40)), Convolved(), torch.empty(3, 40, 40),
        report=lambda line, done=None: told.append((line, done)),
    )  # fmt: skip
    assert len(told) == 81
    assert told[-1][1] == 1.0
    assert sum(line is not None for line, _ in told) == 1


def interpolated(logits, grid_map):
    """The reference for other grids: (K, *network_size) whole, by SciPy, in double precision."""
    rows = zip(grid_map.size, grid_map.scale, grid_map.offset, logits.shape[1:], strict=True)
    places = [np.clip(scale * np.arange(n) + offset, 0, limit - 1) for n, scale, offset, limit in rows]
    mesh = np.meshgrid(*places, indexing="ij")
    whole = logits.double().numpy()
    return torch.from_numpy(np.stack([map_coordinates(each, mesh, order=1, mode="nearest") for each in whole]))


@st.composite
def regridded(draw):
    dims = draw(st.sampled_from([2, 3]))
    size = tuple(draw(st.integers(2, 20 if dims == 2 else 11)) for _ in range(dims))
    grid_map = GridMap(
        tuple(draw(st.integers(1, 24 if dims == 2 else 14)) for _ in range(dims)),
        tuple(draw(st.floats(0.2, 3)) for _ in range(dims)),
        tuple(draw(st.floats(-2, 3)) for _ in range(dims)),
    )
    arguments = {
        "roi_size": tuple(draw(st.integers(2, 7)) for _ in range(dims)),
        "overlap": tuple(draw(st.floats(0, 0.75)) for _ in range(dims)),
        "mode": draw(st.sampled_from(["constant", "gaussian"])),
    }
    return size, grid_map, arguments, draw(st.integers(1, 4)), draw(st.integers(0, 2**31))


@settings(deadline=None, max_examples=60)
@given(regridded())
def test_labels_on_another_grid_are_those_of_the_whole_logits_interpolated(case):
    size, grid_map, arguments, classes, seed = case
    torch.manual_seed(seed)
    image, network = torch.randn(1, 2, *size), Convolved(2, classes, len(size))
    expected = interpolated(SlidingWindowInferer(**arguments)(image, network)[0], grid_map)
    logits = torch.full((classes, *grid_map.size), torch.nan)
    labels = torch.full((1, *grid_map.size), 99, dtype=torch.uint8)
    scan = TensorScan(image[0])
    StreamingInferer(**arguments).stream(scan, network, logits, grid_map=grid_map)
    close(logits, expected)
    StreamingInferer(**arguments, output="labels").stream(scan, network, labels, grid_map=grid_map)
    same_labels(labels[None], expected[None])


def test_what_a_stream_holds_does_not_grow_with_the_scan():
    network = Convolved(dims=3)
    inferer = StreamingInferer(8, overlap=0.5, output="labels")
    whole = partial(np.broadcast_to, np.float32(0))
    needs = [
        inferer.estimate(ArrayScan(whole((1, length, 40, 40))), network, 0, regridded=True) for length in (80, 8000)
    ]
    assert needs[0].device_bytes == needs[1].device_bytes
    assert [each.windows for each in needs] == [19 * 81, 1999 * 81]


def test_an_estimate_counts_windows_and_what_is_held():
    network = Convolved()
    inferer = StreamingInferer(8, overlap=0.5, sw_batch_size=4)
    scan = TensorScan(torch.zeros(1, 1, 1).expand(1, 20, 23))
    plain, larger, other = (
        inferer.estimate(scan, network, 0),
        inferer.estimate(scan, network, 1000),
        inferer.estimate(scan, network, 0, regridded=True),
    )
    assert plain.windows == 4 * 5
    assert larger.device_bytes == plain.device_bytes + 1000
    assert other.device_bytes > plain.device_bytes


def test_the_size_of_windows_is_told():
    assert StreamingInferer((8, -1)).window_size((20, 31)) == (8, 31)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sw_batch_size": 0}, r"sw_batch_size is 0; it must be 1 or more"),
        ({"output": "masks"}, r"output is 'masks'; it must be one of logits, probabilities, labels, or a function"),
        ({"mode": "linear"}, r"mode is 'linear'; it must be one of constant, gaussian, seamless"),
        ({"padding_mode": "mirror"}, r"mirror"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreamingInferer(8, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roi_size": (8, 8, 8)}, r"roi_size \(8, 8, 8\) has 3 axes, the image \(20, 23\) has 2 spatial axes"),
        ({"roi_size": 8, "overlap": 1.0}, r"overlap is 1\.0; each must be at least 0 and less than 1"),
    ],
)
def test_arguments_that_do_not_fit_the_image_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreamingInferer(**arguments)(torch.zeros(1, 1, 20, 23), Convolved())


def test_no_warning_is_given_for_a_file_that_can_only_be_read(tmp_path):
    spread(tmp_path / "in", (1, 16, 16)).flush()
    read = np.memmap(tmp_path / "in", "float32", "r", shape=(1, 16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StreamingInferer((8, -1)).stream(ArrayScan(read), Convolved(), torch.empty(3, 16, 16))


def test_a_grid_map_is_refused_for_outputs_of_another_size():
    grid_map = GridMap((8, 8), (1.0, 1.0), (0.0, 0.0))
    out = np.zeros((1, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"grid_map is for the scan's \(16, 16\) voxels; the network makes \(8, 8\)"):
        StreamingInferer(8).stream(TensorScan(torch.zeros(1, 16, 16)), nn.AvgPool2d(2), out, grid_map=grid_map)
