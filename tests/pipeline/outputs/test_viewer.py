import base64
import re
import shutil
import subprocess
import sys

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from isal import igzip
from scanloom.pipeline.outputs import install_viewer, measure, viewer, write_preview
from scanloom.pipeline.outputs.viewer import page_steps, write_view

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1100,700",
    "--virtual-time-budget=20000",
    "--proxy-server=127.0.0.1:9",
]
ASIDE_PX, HEADER_PX = 320, 50
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


def browse(page, *flags: str) -> str:
    """What headless Chromium prints; it has no network, and a profile of its own."""
    profile = page.parent.parent.parent / "profile"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def read_voxels(path) -> list[nib.Nifti1Image]:
    """The images that view-data.js hands to the page: scan and labels."""
    parts = re.findall(r'window\.scanloom(?:Image|Labels)="([^"]+)";', path.read_text())
    return [nib.Nifti1Image.from_bytes(igzip.decompress(base64.b64decode(part))) for part in parts]


@pytest.fixture
def write(tmp_path, bundle):
    """Writes the page of a case, with NiiVue beside its folder, and the preview; the case's folder."""
    pytest.importorskip("nilearn")

    def write_page(labels, volume, bundle=bundle):
        folder = tmp_path / "out" / "case"
        folder.mkdir(parents=True, exist_ok=True)
        assert install_viewer(folder.parent)
        rows = measure(labels, volume, bundle)
        write_preview(folder / "preview.png", labels, volume, bundle, rows)
        write_view(folder, labels, volume, bundle, rows, ["labels.nii.gz"])
        return folder

    return write_page


def test_image_and_page_hold_the_voxels_in_their_place(write, make_volume, make_labels):
    affine = np.array([[-0.9, 0, 0, 80], [0, 1.1, 0, -90.5], [0, 0, 2.5, 12], [0, 0, 0, 1]])
    volume, labels = make_volume(affine=affine), make_labels()
    folder = write(labels, volume)
    image, shown = read_voxels(folder / "view-data.js")
    for each, expected in (
        (nib.load(folder / "image.nii.gz"), volume.array[0]),
        (image, volume.array[0]),
        (shown, labels),
    ):
        assert np.array_equal(np.asarray(each.dataobj), expected)
        assert np.array_equal(each.affine, affine.astype(np.float32))


def test_a_large_scan_is_thinned_out_on_the_page_alone(write, make_volume, make_labels, monkeypatch):
    monkeypatch.setattr(viewer, "PAGE_BYTES", 40 * 40 * 10 * 4 // 7)
    volume, labels = make_volume((40, 41, 10)), make_labels((40, 41, 10))  # of 1 x 2 x 3 mm
    folder = write(labels, volume)
    x, y, z = page_steps(volume)
    assert x > y >= z == 1
    image, shown = read_voxels(folder / "view-data.js")
    assert np.array_equal(np.asarray(image.dataobj), volume.array[0][::x, ::y, ::z])
    assert np.array_equal(np.asarray(shown.dataobj), labels[::x, ::y, ::z])
    assert np.array_equal(image.affine @ [1, 1, 1, 1], volume.affine @ [x, y, z, 1])
    assert nib.load(folder / "image.nii.gz").shape == volume.spatial_shape
    assert f"one of {x} x {y} x {z} voxels" in (folder / "view.html").read_text()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3000, 1, 1), (512, 512, 700), (3000, 3000, 3), (10, 10, 400_000)])
def test_no_page_holds_more_than_its_limit(make_volume, shape):
    volume = make_volume((1, 1, 1))
    object.__setattr__(volume, "array", np.broadcast_to(np.int16(0), (1, *shape)))
    steps = np.array(page_steps(volume))
    assert np.prod(-(-np.array(shape) // steps)) * 2 <= viewer.PAGE_BYTES
    assert np.all(steps <= shape)


def test_a_scan_beyond_the_limit_is_not_copied(write, make_volume, make_labels, monkeypatch):
    monkeypatch.setattr(viewer, "IMAGE_BYTES", 100)
    folder = write(make_labels(), make_volume())
    assert not (folder / "image.nii.gz").exists()
    assert "image.nii.gz</a>" not in (folder / "view.html").read_text()
    assert (folder / "view-data.js").exists()


@pytest.mark.parametrize(("given", "shown"), [("u1", "u1"), ("i2", "i2"), ("i4", "f4"), ("f8", "f4"), (">i2", "i2")])
def test_the_page_gets_types_that_niivue_takes(write, make_volume, make_labels, given, shown):
    volume = make_volume()
    object.__setattr__(volume, "array", volume.array.astype(given))
    image, _ = read_voxels(write(make_labels(), volume) / "view-data.js")
    assert image.get_data_dtype() == np.dtype(shown)
    assert np.allclose(np.asarray(image.dataobj), volume.array[0], rtol=1e-6)


def test_what_is_no_number_is_dark_on_the_page_and_kept_in_the_file(write, make_volume, make_labels):
    volume = make_volume()
    volume.array[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    folder = write(make_labels(), volume)
    image, _ = read_voxels(folder / "view-data.js")
    known = volume.array[np.isfinite(volume.array)]
    assert np.asarray(image.dataobj)[0, 0, :3].tolist() == [known.min(), known.max(), known.min()]
    assert np.isnan(np.asarray(nib.load(folder / "image.nii.gz").dataobj)[0, 0, 0])


def test_without_niivue_the_page_shows_the_preview_and_what_to_install(
    tmp_path, make_volume, make_labels, bundle, monkeypatch
):
    monkeypatch.setattr(viewer, "find_spec", lambda name: None)
    assert not install_viewer(tmp_path)
    rows = measure(make_labels(), make_volume(), bundle)
    written = write_view(tmp_path / "case", make_labels(), make_volume(), bundle, rows)
    assert [path.name for path in written.values()] == ["view.html"]
    text = written["view"].read_text()
    assert "pip install &#34;scanloom[demo]&#34;" in text
    assert "<script" not in text
    assert 'src="preview.png"' in text
    assert "anterior" in text


def test_a_nilearn_without_niivue_counts_as_none(tmp_path, monkeypatch):
    (tmp_path / "nilearn").mkdir()
    (tmp_path / "nilearn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "nilearn"]:
        monkeypatch.delitem(sys.modules, name)
    assert not install_viewer(tmp_path)


def test_names_are_text_and_never_markup(write, make_volume, make_labels, make_bundle):
    one, two = make_bundle().metadata["label_classes"]
    nasty = "</script><img src=x onerror=alert(1)>"
    folder = write(make_labels(), make_volume(case=nasty), make_bundle(one | {"name": nasty}, two))
    text = (folder / "view.html").read_text()
    assert "<img src=x" not in text
    assert text.count("</script>") == 4


def boxes() -> np.ndarray:
    """Two labels side by side, which every plane through their largest section cuts."""
    labels = np.zeros((40, 44, 48), np.uint8)
    labels[8:20, 12:30, 12:36], labels[20:32, 12:30, 12:36] = 1, 2
    return labels


def stage_of(page) -> np.ndarray:
    """The pixels of a page's canvas, from 0 to 255."""
    picture = page.parent.parent.parent / "page.png"
    browse(page, f"--screenshot={picture}")
    return np.rint(matplotlib.image.imread(picture)[HEADER_PX:, :-ASIDE_PX, :3] * 255)


def share_of(color, stage: np.ndarray) -> float:
    """How much of the canvas has the hue of a label, laid over grey of any brightness."""
    hues = stage - stage.mean(axis=-1, keepdims=True)
    wanted = np.array(color) - np.mean(color)
    lengths = np.linalg.norm(hues, axis=-1)
    return float(((hues @ wanted > 0.98 * lengths * np.linalg.norm(wanted)) & (lengths > 20)).mean())


@needs_browser
def test_a_browser_without_network_draws_image_and_labels(write, make_volume, bundle):
    folder = write(boxes(), make_volume((40, 44, 48), np.eye(4)))
    assert 'data-state="ready"' in browse(folder / "view.html", "--dump-dom")
    stage = stage_of(folder / "view.html")
    grey = (np.ptp(stage, axis=-1) < 4) & (stage[..., 0] > 60) & (stage[..., 0] < 250)
    assert grey.mean() > 0.1
    assert min(share_of(label.color, stage) for label in bundle.labels) > 0.01


@needs_browser
def test_the_controls_of_the_page_work(write, make_volume, bundle):
    """One label hidden, the other gone to, and a window in which all is white."""
    folder = write(boxes(), make_volume((40, 44, 48), np.eye(4)))
    clicks = """<script>
      addEventListener("error", (event) => document.body.dataset.error = event.message);
      const timer = setInterval(() => {
        if (document.body.dataset.state !== "ready") return;
        clearInterval(timer);
        const [one, two] = byId("labels").rows;
        one.querySelector("input").click();
        two.querySelector(".name").click();
        byId("outline").click();
        byId("low").value = 1; byId("high").value = 2; byId("high").onchange();
        document.body.dataset.shown = [byId("low").value, byId("high").value];
        [...byId("planes").children].forEach((button) => button.click());
        byId("planes").children[0].click();
      }, 50);
    </script>"""
    page = folder / "clicked.html"
    page.write_text((folder / "view.html").read_text().replace("</body>", clicks + "</body>"))
    found = browse(page, "--dump-dom")
    assert "data-error" not in found
    assert 'data-shown="1,2"' in found
    assert re.search(r'<div id="where">R 25.5  A 20.5  S 23.5 mm .* posterior</div>', found)
    stage = stage_of(page)
    one, two = bundle.labels
    assert share_of(one.color, stage) < 0.001 < 0.01 < share_of(two.color, stage)
    assert (stage.min(axis=-1) > 250).mean() > 0.1


@needs_browser
def test_a_page_that_lost_its_script_shows_the_preview(write, make_volume, make_labels):
    folder = write(make_labels(), make_volume())
    (folder.parent / "niivue.js").unlink()
    page = browse(folder / "view.html", "--dump-dom")
    assert 'data-state="plain"' in page
    assert re.search(r'<div id="stage" hidden', page)
    assert "keep the whole output folder together" in page
