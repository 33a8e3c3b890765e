from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from scanloom.pipeline.outputs.sections import close_up, cut_sections, direction_letters, largest_sections
from scanloom.pipeline.volume import Volume

SHAPE = (6, 7, 8)
SPACING = (1.0, 2.0, 3.0)


def marked_volume() -> tuple[Volume, np.ndarray]:
    """RAS axes; the corner at the patient's right, front and top is bright, the label box is off the centre."""
    array = np.zeros((1, *SHAPE), np.float32)
    array[0, -3:, -3:, -3:] = 100
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:5, 4:6, 5:7] = 1
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = [10, 20, 30]
    return Volume(array, affine, "case"), labels


def test_right_anterior_and_superior_lie_at_the_left_and_top():
    volume, labels = marked_volume()
    axial, coronal, sagittal = cut_sections(labels, volume).planes
    for section in (axial, coronal, sagittal):
        assert section.image[0, 0] == 100
        assert section.image[-1, -1] == section.image[0, -1] == section.image[-1, 0] == 0
    assert axial.edges == ("R", "L", "A", "P")
    assert coronal.edges == ("R", "L", "S", "I")
    assert sagittal.edges == ("A", "P", "S", "I")
    assert [section.name for section in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_orientation_of_the_source_gives_the_same_sections(order):
    volume, labels = marked_volume()
    expected = cut_sections(labels, volume)
    for flips in product([1, -1], repeat=3):
        turn = np.array([[axis, flip] for axis, flip in zip(order, flips, strict=True)])
        turned = Volume(
            nib.orientations.apply_orientation(volume.array[0], turn)[None],
            volume.affine @ nib.orientations.inv_ornt_aff(turn, SHAPE),
            "case",
        )
        found = cut_sections(nib.orientations.apply_orientation(labels, turn), turned)
        assert found.point_ras_mm == pytest.approx(expected.point_ras_mm, abs=max(SPACING))
        for one, other in zip(found.planes, expected.planes, strict=True):
            np.testing.assert_array_equal(one.image.shape, other.image.shape)
            np.testing.assert_array_equal(one.labels, other.labels)
            assert one.edges == other.edges
            assert one.size_mm == pytest.approx(other.size_mm)


def test_sections_have_their_size_in_mm_and_cross_at_the_named_point():
    volume, labels = marked_volume()
    sections = cut_sections(labels, volume)
    axial, coronal, sagittal = sections.planes
    assert axial.size_mm == (14.0, 6.0)
    assert coronal.size_mm == (24.0, 6.0)
    assert sagittal.size_mm == (24.0, 14.0)
    x, y, z = np.subtract(sections.point_ras_mm, (10, 20, 30)) / SPACING
    assert axial.cross == (SHAPE[1] - 1 - y, SHAPE[0] - 1 - x)
    assert coronal.cross == (SHAPE[2] - 1 - z, SHAPE[0] - 1 - x)
    assert sagittal.cross == (SHAPE[2] - 1 - z, SHAPE[1] - 1 - y)


def test_planes_go_through_the_largest_section_and_the_centre_without_labels():
    labels = np.zeros((9, 9, 9), np.uint8)
    assert largest_sections(labels > 0) == (4, 4, 4)
    labels[1, 2, 3] = labels[1, 2, 7] = 1
    labels[1, 6:8, 7] = 2
    assert largest_sections(labels > 0) == (1, 2, 7)
    box = np.zeros((9, 9, 9), np.uint8)
    box[2:7] = 1
    assert largest_sections(box > 0)[0] == 4


@pytest.mark.parametrize(
    ("direction", "letters"),
    [((1, 0, 0), "R"), ((0, -1, 0.1), "P"), ((0, 0, -3), "I"), ((-1, 0.9, 0), "LA"), ((0.5, -0.6, 0.7), "SPR")],
)
def test_oblique_directions_have_more_letters(direction, letters):
    assert direction_letters(np.array(direction, float)) == letters


def test_planes_go_through_the_label_that_is_asked_for():
    volume, labels = marked_volume()
    labels[0, 0, 0] = 2
    x, y, z = np.subtract(cut_sections(labels, volume, 2).point_ras_mm, (10, 20, 30)) / SPACING
    assert (x, y, z) == (0, 0, 0)
    assert all((section.labels == 2).sum() == 1 for section in cut_sections(labels, volume, 2).planes)


def test_a_close_up_keeps_label_margin_and_crossing():
    labels = np.zeros((60, 50, 40), np.uint8)
    labels[20:30, 22:26, 15:17] = 1
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = np.random.default_rng(0).random((1, *labels.shape))
    near = close_up(cut_sections(labels, Volume(image, affine, "case")), 1, 5.0)
    for section, whole in zip(near.planes, cut_sections(labels, Volume(image, affine, "case")).planes, strict=True):
        assert (section.labels == 1).sum() == (whole.labels == 1).sum()
        assert section.size_mm == pytest.approx((20, 20), abs=3)
        assert section.image[section.cross] == whole.image[whole.cross]
        assert section.edges == whole.edges


def test_a_close_up_at_the_border_ends_there_and_without_the_label_changes_nothing():
    volume, labels = marked_volume()
    sections = cut_sections(labels, volume)
    labels[0, 0, 0] = 2
    corner = close_up(cut_sections(labels, volume, 2), 2, 100.0)
    assert [section.image.shape for section in corner.planes] == [section.image.shape for section in sections.planes]
    for section, whole in zip(close_up(sections, 9, 5.0).planes, sections.planes, strict=True):
        assert section.image.shape == whole.image.shape


def picture(pages=1):
    array = np.arange(4 * 3 * pages, dtype=np.float32).reshape(1, 4, 3, pages)
    return Volume(array, np.diag([-0.5, -0.5, 1.0, 1.0]), "case", is_picture=True)


def test_of_a_picture_the_page_is_shown_as_it_is_stored():
    volume = picture(pages=5)
    labels = np.zeros((4, 3, 5), np.uint8)
    labels[1, 2, 3] = 1
    sections = cut_sections(labels, volume)
    (page,) = sections.planes
    np.testing.assert_array_equal(page.image, volume.array[0, :, :, 3].T)
    np.testing.assert_array_equal(page.labels, labels[:, :, 3].T)
    assert sections.page == "page 4 of 5"
    assert (page.name, page.edges, page.cross, page.pixel_mm) == ("", ("",) * 4, None, (0.5, 0.5))
    assert cut_sections(labels[..., :1], picture()).page == ""


def test_of_a_scan_of_one_slice_that_is_shown_with_its_directions():
    volume = Volume(np.zeros((1, 6, 1, 5), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]), "case")
    (plane,) = cut_sections(np.zeros((6, 1, 5), np.uint8), volume).planes
    assert (plane.name, plane.edges, plane.cross) == ("coronal", ("R", "L", "S", "I"), None)
    assert close_up(cut_sections(np.ones((6, 1, 5), np.uint8), volume), 1, 2.0).planes[0].cross is None


def test_a_huge_picture_is_thinned_out_and_keeps_its_size():
    volume = Volume(np.zeros((1, 5000, 30, 1), np.uint8), np.diag([-1.0, -1, 1, 1]), "case", is_picture=True)
    (page,) = cut_sections(np.zeros((5000, 30, 1), np.uint8), volume).planes
    assert page.image.shape == page.labels.shape == (10, 1667)
    assert page.pixel_mm == (3.0, 3.0)
