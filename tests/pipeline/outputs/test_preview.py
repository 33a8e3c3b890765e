from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scanloom.pipeline.errors import BundleError, PipelineError
from scanloom.pipeline.outputs import write_preview
from scanloom.pipeline.outputs.measure import volume_text
from scanloom.pipeline.outputs.panel import length_text, outline, scale_bar_mm
from scanloom.pipeline.outputs.preview import CLOSE_UPS
from scanloom.pipeline.outputs.window import choose_window
from scanloom.pipeline.volume import Notice


def colored_pixels(path: Path) -> int:
    """How many pixels are neither grey nor the background's nearly grey."""
    picture = matplotlib.image.imread(path)[..., :3]
    return int((np.ptp(picture, axis=-1) > 0.1).sum())


def test_labels_are_drawn_in_their_colours(tmp_path, make_volume, make_labels, bundle):
    write_preview(tmp_path / "preview.png", make_labels(), make_volume(), bundle)
    picture = np.rint(matplotlib.image.imread(tmp_path / "preview.png")[..., :3] * 255).astype(int)
    for label in bundle.labels:
        assert (np.abs(picture - label.color).max(axis=-1) < 3).sum() > 50


def test_an_empty_label_map_gives_a_picture_without_labels(tmp_path, make_volume, make_labels, bundle):
    write_preview(tmp_path / "with.png", make_labels(), make_volume(), bundle)
    write_preview(tmp_path / "without.png", make_labels() * np.uint8(0), make_volume(), bundle)
    assert colored_pixels(tmp_path / "without.png") < 1000 < colored_pixels(tmp_path / "with.png")


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 5, 1), (2, 60, 3), (80, 90, 4)])
def test_any_shape_gives_a_picture_of_bounded_size(tmp_path, make_volume, bundle, shape):
    write_preview(tmp_path / "preview.png", np.ones(shape, np.uint8), make_volume(shape), bundle)
    height, width, _ = matplotlib.image.imread(tmp_path / "preview.png").shape
    assert 100 < height <= 1200
    assert 800 < width <= 1500


def test_the_same_case_gives_the_same_bytes(tmp_path, make_volume, make_labels, bundle):
    for name in ("one.png", "two.png"):
        write_preview(tmp_path / name, make_labels(), make_volume(), bundle)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_names_with_dollars_foreign_letters_and_great_length_are_drawn(tmp_path, make_volume, make_labels, make_bundle):
    one, two = make_bundle().metadata["label_classes"]
    bundle = make_bundle(one | {"name": "$\\frac{"}, two | {"name": "海馬" * 50}, name="$x$")
    write_preview(tmp_path / "preview.png", make_labels(), make_volume(case="a$b_$c"), bundle)
    assert colored_pixels(tmp_path / "preview.png") > 1000


def test_many_labels_are_drawn_and_named_up_to_a_limit(tmp_path, make_volume, make_bundle):
    one, _ = make_bundle().metadata["label_classes"]
    bundle = make_bundle(*(one | {"value": value, "name": f"structure {value}"} for value in range(1, 61)))
    labels = np.arange(9 * 8 * 7).reshape(9, 8, 7) % 61
    write_preview(tmp_path / "preview.png", labels.astype(np.uint8), make_volume(), bundle)
    height, width, _ = matplotlib.image.imread(tmp_path / "preview.png").shape
    assert height < 1800
    assert width == 1400
    assert (tmp_path / "preview.png").stat().st_size < 2**21


def test_labels_that_the_first_planes_miss_are_shown_from_near(tmp_path, make_volume, make_bundle):
    """Six large labels in the first planes, and a small one in a corner, which no plane of theirs cuts."""
    one, _ = make_bundle().metadata["label_classes"]
    colors = [[200, 0, 10 * value] for value in range(CLOSE_UPS)] + [[0, 255, 0]]
    classes = [one | {"value": value, "name": str(value), "color": color} for value, color in enumerate(colors, 1)]
    labels = np.zeros((40, 40, 40), np.uint8)
    for value in range(1, CLOSE_UPS + 1):
        labels[5 + 4 * value : 9 + 4 * value, 16:30, 16:30] = value
    labels[1:3, 1:3, 1:3] = CLOSE_UPS + 1
    write_preview(tmp_path / "preview.png", labels, make_volume(labels.shape), make_bundle(*classes))
    red, green, blue = np.moveaxis(matplotlib.image.imread(tmp_path / "preview.png")[..., :3], -1, 0)
    assert ((green > red + 0.1) & (green > blue + 0.1)).sum() > 3000


def test_a_single_label_is_shown_from_near_only_where_that_shows_more(tmp_path, make_volume, bundle):
    heights = {}
    for name, part in {"small": slice(48, 52), "large": slice(2, 98)}.items():
        labels = np.zeros((100, 100, 100), np.uint8)
        labels[part, part, part] = 1
        write_preview(tmp_path / f"{name}.png", labels, make_volume(labels.shape, np.eye(4)), bundle)
        heights[name] = matplotlib.image.imread(tmp_path / f"{name}.png").shape[0]
    assert heights["small"] > heights["large"] + 150


def test_the_window_follows_the_modality_and_ignores_what_is_no_scan():
    values = np.random.default_rng(0).normal(100, 10, 1000)
    around = np.concatenate([values, np.full(5000, -2000.0), [np.nan, np.inf]])
    assert choose_window(values, "CT") == (-160.0, 240.0)
    assert choose_window(around, None, -2000.0) == pytest.approx(tuple(np.percentile(values, (1, 99))))
    assert choose_window(around, "MR")[0] == -2000.0
    assert choose_window(np.full(9, np.nan), "MR") == (0.0, 1.0)
    assert choose_window(np.full(9, 5.0), "MR") == (5.0, 6.0)


def test_an_outline_follows_the_pixel_edges():
    mask = np.zeros((4, 5), bool)
    mask[1, 1] = True
    edges = {tuple(map(tuple, edge)) for edge in outline(mask)}
    assert edges == {((1, 1), (1, 2)), ((2, 1), (2, 2)), ((1, 1), (2, 1)), ((1, 2), (2, 2))}
    assert len(outline(np.ones((4, 5), bool))) == 2 * (4 + 5)


@pytest.mark.parametrize(("width", "length"), [(35, 5), (200, 50), (512, 100), (3.9, 0.5), (1e-3, 2e-4)])
def test_a_scale_bar_is_a_round_length_of_at_most_a_quarter(width, length):
    assert scale_bar_mm(width) == pytest.approx(length)


@pytest.mark.parametrize(
    ("volume", "text"), [(1.8, "1.80 ml"), (23.42, "23.4 ml"), (1210.4, "1210 ml"), (5e-4, "0.000500 ml"), (0, "0 ml")]
)
def test_volumes_have_three_digits_that_count(volume, text):
    assert volume_text(volume) == text


def test_labels_without_a_name_or_of_another_grid_are_refused(tmp_path, make_volume, make_labels, bundle):
    with pytest.raises(BundleError, match="which label_classes does not name"):
        write_preview(tmp_path / "preview.png", make_labels() * 3, make_volume(), bundle)
    with pytest.raises(PipelineError, match="Bring the labels back to the source grid"):
        write_preview(tmp_path / "preview.png", make_labels((4, 4, 4)), make_volume(), bundle)


def test_a_writer_that_fails_midway_keeps_the_old_picture(tmp_path, make_volume, make_labels, bundle, monkeypatch):
    path = tmp_path / "preview.png"
    write_preview(path, make_labels(), make_volume(), bundle)
    old = path.read_bytes()

    def save_half(self, file, **settings):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", save_half)
    with pytest.raises(KeyboardInterrupt):
        write_preview(path, make_labels()[::-1], make_volume(), bundle)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["preview.png"]


@pytest.mark.data
def test_a_real_case_is_drawn(tmp_path, make_volume, bundle, data_folder):
    folder = data_folder / "msd_hippocampus"
    image = nib.load(folder / "images" / "hippocampus_003.nii.gz")
    labels = np.asarray(nib.load(folder / "labels" / "hippocampus_003.nii.gz").dataobj).astype(np.uint8)
    volume = replace(make_volume(affine=image.affine), array=np.asarray(image.dataobj)[None])
    write_preview(tmp_path / "preview.png", labels, volume, bundle)
    assert colored_pixels(tmp_path / "preview.png") > 10_000


def test_a_picture_is_one_large_panel_without_a_patients_directions(tmp_path, make_volume, bundle, monkeypatch):
    said = []

    def listen(kind):
        original = kind.text

        def keep(target, x, y, text, **style):
            said.append(text)
            return original(target, x, y, text, **style)

        monkeypatch.setattr(kind, "text", keep)

    listen(Figure)
    listen(Axes)
    notices = (Notice("no-spacing", "none is told"),)
    volume = make_volume((60, 40, 1), affine=np.diag([-1.0, -1, 1, 1]), is_picture=True, notices=notices)
    labels = np.zeros((60, 40, 1), np.uint8)
    labels[10:30, 5:15] = 1
    write_preview(tmp_path / "preview.png", labels, volume, bundle)
    height, width, _ = matplotlib.image.imread(tmp_path / "preview.png").shape
    assert height > 900 < width
    shown = " ".join(said)
    assert "pixels" in shown
    assert " mm" not in shown and "patient" not in shown
    assert not {"R", "L", "A", "P"} & {*said}


@pytest.mark.parametrize(
    ("length", "known", "text"),
    [
        (20.0, True, "20 mm"),
        (0.005, True, "5 µm"),
        (2e-4, True, "200 nm"),
        (5e-7, True, "0.5 nm"),
        (100, False, "100 pixels"),
    ],
)
def test_lengths_are_in_the_unit_that_leaves_few_zeros(length, known, text):
    assert length_text(length, known) == text
