"""What every intensity transform promises: kinds of images, background, draws, MONAI's ways."""

import copy

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from scanloom import transforms
from scanloom.transforms import BrightnessContrast, Noise, RandGamma, RandIntensity, RandIntensityd, change_intensity

PROBABILITIES = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
TRANSFORMS = {
    "gamma": ("RandGamma", {}),
    "gaussian noise": ("RandNoise", {}),
    "rician noise": ("RandNoise", {"kind": "rician"}),
    "brightness and contrast": ("RandBrightnessContrast", {"shift": 0.2}),
    "blur": ("RandBlur", {}),
    "low resolution": ("RandSimulateLowResolution", {"factor": [0.5, 0.8]}),
    "bias field": ("RandBiasField", {}),
    "histogram shift": ("RandHistogramShift", {"strength": 0.9}),
    "all": ("RandIntensity", {f"prob_{part}": 1.0 for part in PROBABILITIES}),
}
NOISY = {"gaussian noise", "rician noise", "all"}
BRIGHTENING = {"brightness and contrast", "all"}
SIZES = [(17, 12), (9, 8, 7)]

every = pytest.mark.parametrize("name", TRANSFORMS)
any_size = pytest.mark.parametrize("size", SIZES)


def array_transform(name, seed=0, prob=1.0, **options):
    kind, settings = TRANSFORMS[name]
    return getattr(transforms, kind)(prob=prob, **(settings | options)).set_random_state(seed)


def dictionary_transform(name, keys=("image",), seed=0, prob=1.0, **options):
    kind, settings = TRANSFORMS[name]
    return getattr(transforms, f"{kind}d")(keys, prob=prob, **(settings | options)).set_random_state(seed)


def make_image(size=(9, 8, 7), channels=1, mean=0.0, std=1.0):
    return mean + std * torch.randn(channels, *size)


def ct(size=(12, 11, 10)):
    """HU of air, tissue and metal, up to both ends of the scale."""
    image = torch.randint(-100, 200, (1, *size)).float()
    image[:, :3] = -1024
    image[:, 3, :2] = 3000
    return image


# ---- kinds of images


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mr", "ct", "em"])
def test_type_and_shape_stay_and_values_are_finite(name, dtype, kind):
    image = {"mr": make_image(), "ct": ct(), "em": torch.randint(0, 256, (1, 20, 21))}[kind].to(dtype)
    changed = array_transform(name)(image)
    assert changed.dtype == dtype
    assert changed.shape == image.shape
    assert changed.isfinite().all()
    assert not torch.equal(changed, image)


@every
@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (torch.uint8, 0, 255),
        (torch.int8, -128, 127),
        (torch.int16, -1024, 3000),
        (torch.int16, -(2**15), 2**15 - 1),
        (torch.uint16, 0, 2**16 - 1),
        (torch.int32, -(2**31), 2**31 - 1),
        (torch.int64, -(2**62), 2**63 - 1),
    ],
)
def test_integers_are_rounded_and_do_not_wrap_around(name, dtype, low, high):
    image = torch.from_numpy(np.random.RandomState(0).randint(low, high, (1, 20, 21), dtype=np.int64))
    image[0, :5, :10], image[0, :5, 10:] = low, high
    changed = array_transform(name)(image.to(dtype))
    assert changed.dtype == dtype
    # long integers are worked on in float64, and only that holds their digits
    limits, working = torch.iinfo(dtype), torch.float32 if image.to(dtype).element_size() < 4 else torch.float64
    exact = array_transform(name)(image.to(working)).round().clamp(float(limits.min), float(limits.max))
    torch.testing.assert_close(changed.to(working), exact, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (torch.uint8, 0, 255),
        (torch.int16, -(2**15), 2**15 - 1),
        (torch.uint16, 0, 2**16 - 1),
        (torch.int32, -(2**31), 2**31 - 1),
        (torch.int64, -(2**63), 2**63 - 1),
        (torch.float16, -65504, 65504),
    ],
)
def test_values_beyond_the_ends_of_the_type_become_its_ends(dtype, low, high):
    image = torch.tensor([[[low, 0, 100, high]]], dtype=dtype)
    changed = change_intensity(image, [[BrightnessContrast(1.5)]])
    # the highest number of 64 bits is known to float64's 53
    assert changed.flatten().tolist() == [low, 0, 150, pytest.approx(high, rel=1e-15)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_long_integers_keep_all_their_digits(dtype):
    image = torch.tensor([[[2**24 + 1, 2**30 + 7, -(2**24) - 3, 0]]], dtype=dtype)
    assert torch.equal(change_intensity(image, [[BrightnessContrast(1.0)]]), image)


@every
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1, 1), (2, 1, 9), (1, 5, 1, 1), (2, 1, 1, 7), (1, 2, 1, 2)])
def test_axes_of_length_one_survive(name, shape):
    for seed in range(5):
        changed = array_transform(name, seed)(torch.randn(shape))
        assert changed.shape == shape
        assert changed.isfinite().all()


@every
@any_size
@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 1e5])
def test_a_constant_image_stays(name, size, value):
    image = torch.full((2, *size), value)
    for seed in range(3):
        options = {"brightness": 1.0} if name in BRIGHTENING else {}
        changed = array_transform(name, seed, **options)(image)
        torch.testing.assert_close(changed, image, rtol=2e-6, atol=1e-9)


@every
@pytest.mark.parametrize(
    "form",
    {
        "tensor": lambda image: image,
        "transposed": lambda image: image.transpose(1, 2),
        "strided": lambda image: image[:, ::2, 1:],
        "expanded": lambda image: image[:, :1].expand(-1, 4, -1),
        "with gradient": lambda image: image.requires_grad_(),
        "array": lambda image: image.numpy(),
        "float64 array": lambda image: image.double().numpy(),
        "integer array": lambda image: (100 * image).numpy().astype(np.int16),
        "unsigned array": lambda image: (100 * image).abs().numpy().astype(np.uint16),
        "Fortran array": lambda image: np.asfortranarray(image.numpy()),
        "flipped array": lambda image: image.numpy()[:, ::-1],
        "big-endian array": lambda image: image.numpy().astype(">f4"),
        "read-only array": lambda image: np.broadcast_to(image.numpy()[:, :1], (1, 5, 12)),
        "mapped file": lambda image: np.asarray(image.numpy()).view(np.memmap),
        "MetaTensor": lambda image: MetaTensor(image, affine=2 * torch.eye(4)),
        "transposed MetaTensor": lambda image: MetaTensor(image).transpose(1, 2),
    }.items(),
    ids=lambda form: form[0],
)
def test_the_input_stays_whatever_its_kind_and_layout(name, form):
    image = form[1](make_image((17, 12)))
    before = copy.deepcopy(image.detach()) if isinstance(image, torch.Tensor) else image.copy()
    values = np.asarray(before)
    plain = torch.tensor(values.astype(values.dtype.newbyteorder("=")).copy())
    spacing = (2, 2) if form[0] == "MetaTensor" else (1, 1)
    changed = array_transform(name)(image)
    assert isinstance(changed, np.ndarray if isinstance(image, np.ndarray) else type(image))
    np.testing.assert_array_equal(image.detach() if isinstance(image, torch.Tensor) else image, values)
    np.testing.assert_array_equal(np.asarray(changed), array_transform(name, spacing=spacing)(plain).numpy())
    assert not np.array_equal(np.asarray(changed), values)


@every
def test_an_image_keeps_its_affine_and_other_metadata(name):
    affine = torch.diag(torch.tensor([0.5, 1.0, 3.0, 1.0]))
    image = MetaTensor(make_image(), affine=affine, meta={"scanner": "A"})
    changed = array_transform(name)(image)
    assert isinstance(changed, MetaTensor)
    torch.testing.assert_close(changed.affine, image.affine)
    assert changed.meta["scanner"] == "A"
    changed.affine, changed.meta["scanner"] = torch.eye(4), "B"
    assert image.affine[0, 0] == 0.5
    assert image.meta["scanner"] == "A"


@every
@pytest.mark.parametrize("shape", [(5,), (5, 5), (2, 1, 5, 5, 5)])
def test_other_than_channel_first_images_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"the image has shape \(.*\); it must be \(C, H, W\) or \(C, D, H, W\)"):
        array_transform(name)(torch.zeros(shape))


# ---- background


@every
@any_size
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int16])
@pytest.mark.parametrize("background", [0.0, -3.7])
def test_the_background_keeps_its_value(name, size, dtype, background):
    image = make_image(size, mean=50, std=20).to(dtype)
    image[:, :, :3] = background
    outside = image == image[0, 0, 0].flatten()[0]
    changed = array_transform(name, background=int(background) if dtype == torch.int16 else background)(image)
    assert torch.equal(changed[outside], image[outside])
    assert changed.isfinite().all()
    assert not torch.equal(changed[~outside], image[~outside])


@every
def test_an_image_of_background_alone_stays(name):
    image = torch.zeros(2, 5, 6)
    assert torch.equal(array_transform(name, background=0.0)(image), image)


@every
def test_a_background_that_is_nowhere_changes_nothing(name):
    image = make_image()
    assert torch.equal(array_transform(name, background=-1024.0)(image), array_transform(name)(image))


# ---- draws


@every
@any_size
def test_same_seed_same_result_and_another_seed_another(name, size):
    image = make_image(size)
    one, same, other = (array_transform(name, seed)(image) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every
def test_a_state_may_be_given_in_place_of_a_seed(name):
    image = make_image()
    given_state = array_transform(name).set_random_state(state=np.random.RandomState(5))(image)
    assert torch.equal(given_state, array_transform(name, seed=5)(image))


@every
def test_every_call_draws_anew_and_without_randomize_the_last_draw_is_applied_again(name):
    image, transform = make_image(), array_transform(name)
    first, second = transform(image), transform(image)
    assert not torch.equal(first, second)
    assert torch.equal(transform(image, randomize=False), second)


@every
def test_before_any_draw_there_is_nothing_to_apply_again(name):
    with pytest.raises(ValueError, match="nothing has been drawn yet; call the transform once with randomize=True"):
        array_transform(name)(make_image(), randomize=False)


@every
def test_what_was_drawn_can_be_kept_and_applied_again(name):
    image, transform = make_image(), array_transform(name)
    changed = transform(image)
    kept = transform.changes
    transform(image)
    assert torch.equal(change_intensity(image, kept), changed)


@every
def test_a_probability_of_zero_gives_a_copy(name):
    image, transform = make_image(), array_transform(name, prob=0.0)
    for _ in range(5):
        changed = transform(image)
        assert torch.equal(changed, image)
        assert changed.data_ptr() != image.data_ptr()


def test_images_are_changed_as_often_as_the_probability_says():
    transform = RandGamma(prob=0.3).set_random_state(0)
    image = make_image((3, 3))
    # 500 draws: standard deviation 2 %
    assert np.mean([not torch.equal(transform(image), image) for _ in range(500)]) == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("prob", [-0.1, 1.1])
@every
def test_what_is_no_probability_is_refused(name, prob):
    with pytest.raises(ValueError, match=f"prob is {prob}; it must lie in 0 to 1"):
        array_transform(name, prob=prob)
    with pytest.raises(ValueError, match=f"prob is {prob}; it must lie in 0 to 1"):
        dictionary_transform(name, prob=prob)


@every
def test_channels_share_a_draw_but_not_the_noise(name):
    image = make_image().expand(2, -1, -1, -1)
    transform = array_transform(name, channel_wise=False)
    first, second = transform(image)
    assert len(transform.changes) == 1
    assert torch.equal(first, second) == (name not in NOISY)


@every
@any_size
def test_channels_may_have_draws_of_their_own(name, size):
    transform = array_transform(name, seed=1, channel_wise=True)
    first, second, third = transform(make_image([2 * length for length in size]).expand(3, *[-1] * len(size)))
    assert len(transform.changes) == 3
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_changes_are_started_over_when_channels_are_left():
    image = torch.ones(5, 2, 2)
    changes = [[BrightnessContrast(2.0)], [], [BrightnessContrast(3.0), BrightnessContrast(5.0)]]
    assert change_intensity(image, changes)[:, 0, 0].tolist() == [2, 1, 15, 2, 1]
    assert torch.equal(change_intensity(image, []), image)


# ---- MONAI's ways


@every
def test_a_dictionary_is_changed_as_an_image_is(name):
    image = make_image()
    data = {"image": image, "label": torch.ones(1, 2, 2), "case": "a"}
    changed = dictionary_transform(name, seed=3)(data)
    assert torch.equal(changed["image"], array_transform(name, seed=3)(image))
    assert changed["label"] is data["label"]
    assert changed["case"] == "a"
    assert data["image"] is image


@every
def test_keys_share_a_draw_but_not_the_noise(name):
    image, transform = make_image(channels=2), dictionary_transform(name, ("t1", "t2"), channel_wise=False)
    changed = transform({"t1": image, "t2": image})
    assert torch.equal(changed["t1"], change_intensity(image, transform.transform.changes))
    assert torch.equal(changed["t2"], change_intensity(image, transform.transform.changes, stream=2))
    assert torch.equal(changed["t1"], changed["t2"]) == (name not in NOISY)


@every
def test_a_dictionarys_last_draw_is_applied_again_without_randomize(name):
    data, transform = {"t1": make_image(), "t2": make_image()}, dictionary_transform(name, ("t1", "t2"))
    changed = transform(data)
    again = transform(data, randomize=False)
    assert all(torch.equal(changed[key], again[key]) for key in data)


@every
def test_keys_that_are_not_there_may_be_passed_over(name):
    image = make_image()
    transform = dictionary_transform(name, ("t1", "t2"), allow_missing_keys=True)
    assert torch.equal(transform({"t2": image})["t2"], array_transform(name)(image))
    assert transform({"case": 1}) == {"case": 1}


@every
def test_a_missing_key_is_refused(name):
    with pytest.raises(KeyError, match=r"`t2` of transform `Rand.*d` was missing"):
        dictionary_transform(name, ("t1", "t2"))({"t1": make_image()})


@every
def test_a_composition_seeds_it(name):
    image = make_image()

    def composed(seed):
        return Compose([array_transform(name), array_transform(name)]).set_random_state(seed)(image)

    assert torch.equal(composed(1), composed(1))
    assert not torch.equal(composed(1), composed(2))


@every
@pytest.mark.parametrize("suffix", ["", "d"])
def test_a_bundles_configuration_makes_it(name, suffix):
    kind, settings = TRANSFORMS[name]
    config = {"_target_": f"scanloom.transforms.{kind}{suffix}", "prob": 1.0, **settings}
    if suffix:
        config["keys"] = ["image"]
    made = ConfigParser({"transform": config}).get_parsed_content("transform").set_random_state(4)
    image = make_image()
    changed = made({"image": image})["image"] if suffix else made(image)
    assert torch.equal(changed, array_transform(name, seed=4)(image))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_the_same_seed_gives_the_same_and_every_sample_its_own(workers):
    data = Dataset(
        [{"image": torch.arange(16.0).reshape(1, 4, 4)}] * 8, RandIntensityd("image", **TRANSFORMS["all"][1])
    )

    def loaded(seed):
        torch.manual_seed(seed)
        loader = DataLoader(data, batch_size=2, num_workers=workers)
        return torch.cat([batch["image"] for batch in loader])

    one = loaded(1)
    assert torch.equal(one, loaded(1))
    assert not torch.equal(one, loaded(2))
    assert len({tuple(sample.flatten().tolist()) for sample in one}) == 8


def test_noise_is_the_same_whether_an_image_is_alone_or_with_others():
    image = make_image(channels=3)
    changes = [[Noise(0.5, 11)]]
    together = change_intensity(image, changes)
    for channel in range(3):
        alone = change_intensity(image[channel : channel + 1], changes, stream=channel)
        assert torch.equal(alone[0], together[channel])


def test_a_copy_is_seeded_on_its_own():
    original = RandIntensity(**TRANSFORMS["all"][1]).set_random_state(0)
    image, twin = make_image(), copy.deepcopy(original)
    first = original(image)
    assert torch.equal(twin(image), first)
    twin.set_random_state(5)
    assert torch.equal(twin(image), RandIntensity(**TRANSFORMS["all"][1]).set_random_state(5)(image))
