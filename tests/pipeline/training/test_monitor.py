"""What a training tells as it runs, from engines' events: MLflow, metrics.csv, lines, pictures of the best."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.data import MetaTensor, decollate_batch
from monai.metrics import DiceMetric
from scanloom.pipeline.bundle import Code, LabelClass
from scanloom.pipeline.training.checkpoint import BestMetric
from scanloom.pipeline.training.learning_curve import learning_curve
from scanloom.pipeline.training.monitor import Monitor, forget_after
from scanloom.pipeline.training.overlay import Picture, overlay_figure, picture_of
from scanloom.pipeline.training.per_case import best_median_worst, validated_cases

CODE = Code("91723000", "SCT", "Anatomical Structure")
LABELS = (
    LabelClass(1, "anterior", CODE, CODE, None, (230, 159, 0)),
    LabelClass(2, "posterior", CODE, CODE, None, (86, 180, 233)),
)


class FakeRun:
    """A `TrackedRun` that remembers."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, int]] = []
        self.figures: list[tuple[str, Figure]] = []
        self.tags: dict[str, str] = {}
        self.texts: list[tuple[str, str]] = []
        self.points: list[tuple[str, float, int]] = []

    def log_points(self, points: Sequence[tuple[str, float, int]]) -> None:
        self.points += points

    def log_text(self, text: str, name: str) -> None:
        self.texts.append((name, text))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics += [(name, value, step) for name, value in metrics.items()]

    def log_figure(self, figure: Figure, name: str) -> None:
        self.figures.append((name, figure))

    def set_tag(self, name: str, value: str) -> None:
        self.tags[name] = value


def one_hot(labels: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.as_tensor(labels == value) for value in range(3)]).float()


WRONG = (2, 0, 4, 1, 3)
"""How many voxels of label 1 the prediction misses in each case: case_1 is the best, case_2 the worst."""


def make_item(wrong: int, shape: tuple[int, ...] = (4, 5, 6)) -> dict[str, torch.Tensor]:
    """A case whose prediction misses so many of the voxels of label 1; label 2 is in neither."""
    reference = np.zeros(shape, int)
    reference[1:3, 1:4] = 1
    prediction = reference.copy()
    prediction[tuple(axis[:wrong] for axis in np.nonzero(reference))] = 0
    return {"image": MetaTensor(torch.rand(1, *shape)), "label": one_hot(reference), "pred": one_hot(prediction)}


def make_evaluator(scores: Sequence[float], cases: int = 5) -> Engine:
    """An evaluator of one case a batch, decollated, whose key metric takes the scores one after the other."""
    evaluator = Engine(lambda engine, batch: [make_item(WRONG[int(batch[0]["case"].removeprefix("case_"))])])
    evaluator.state.key_metric_name = "val_mean_dice"  # type: ignore[attr-defined]
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1.0, -1  # type: ignore[attr-defined]
    left = list(scores)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def score() -> None:
        value = left.pop(0)
        evaluator.state.metrics = {"val_mean_dice": value, "val_dice": torch.tensor([value - 0.1, value + 0.1])}
        if value > evaluator.state.best_metric:  # type: ignore[attr-defined]
            evaluator.state.best_metric = value  # type: ignore[attr-defined]
            evaluator.state.best_metric_epoch = evaluator.state.epoch  # type: ignore[attr-defined]

    evaluator.data = [[{"case": f"case_{number}"}] for number in range(cases)]  # type: ignore[attr-defined]
    return evaluator


def run_training(tmp_path: Path, scores: Sequence[float]) -> tuple[FakeRun, list[str]]:
    """Epochs of two steps, each validated; the loss counts up from 1, the learning rate down from 1."""
    run, lines = FakeRun(), list[str]()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    weight = torch.zeros(1, requires_grad=True)

    def step(engine: Engine, batch: Any) -> dict[str, torch.Tensor]:
        optimizer.param_groups[0]["lr"] = 1 / engine.state.iteration
        return {"loss": weight.sum() + engine.state.iteration}

    trainer, evaluator = Engine(step), make_evaluator(scores)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        evaluator.state.max_epochs, evaluator.state.epoch = trainer.state.epoch, trainer.state.epoch - 1
        evaluator.state.iteration = 0
        evaluator.run(evaluator.data)  # type: ignore[attr-defined]

    monitor = Monitor(run, tmp_path / "metrics.csv", LABELS, lambda line, done=None: lines.append(line))  # type: ignore[arg-type]
    monitor.attach(trainer, evaluator, optimizer)
    trainer.run([0, 1], max_epochs=len(scores))
    return run, lines


def test_metrics_go_to_mlflow_and_to_the_file_under_the_same_names(tmp_path: Path) -> None:
    run, _ = run_training(tmp_path, [0.5, 0.6])
    logged = {(name, step): value for name, value, step in run.metrics}
    assert logged["train/loss", 1] == 1.5 and logged["train/loss", 2] == 3.5
    assert logged["train/learning_rate", 2] == 0.25
    assert logged["train/seconds", 1] >= 0
    assert logged["val/mean_dice", 2] == 0.6
    assert logged["val/dice/anterior", 1] == pytest.approx(0.4)
    assert logged["val/dice/posterior", 1] == pytest.approx(0.6)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [(row["metric"], int(row["epoch"])) for row in csv.DictReader(file)]
    assert rows == [(name, step) for name, _, step in run.metrics if name != "val/best"]
    assert len(rows) == len(set(rows)) == 14


def test_an_epochs_loss_is_told_before_its_validation(tmp_path: Path) -> None:
    _, lines = run_training(tmp_path, [0.5, 0.6])
    assert [line.split(":")[0].strip() for line in lines] == ["epoch 1/2", "validation", "epoch 2/2", "validation"]
    assert lines[1] == "  validation: mean_dice 0.5000, dice/anterior 0.4000, dice/posterior 0.6000"


def test_pictures_are_of_the_best_the_median_and_the_worst_case_of_the_best_validations(tmp_path: Path) -> None:
    run, _ = run_training(tmp_path, [0.5, 0.4, 0.5, 0.7])
    pictures = [(name, figure.get_suptitle()) for name, figure in run.figures if name.startswith("validation/")]
    cases = {name: title.split(":")[1].split(",")[0].strip() for name, title in pictures}
    assert cases == {
        "validation/best.png": "case_1",
        "validation/median.png": "case_0",
        "validation/worst.png": "case_2",
    }
    assert [title.split(", ")[1] for _, title in pictures] == ["epoch 1"] * 3 + ["epoch 4"] * 3
    assert pictures[0][1].endswith("mean Dice 1.000")
    assert [name for name, _ in run.figures if name.startswith("training/")] == ["training/learning_curve.png"] * 2
    assert [(value, step) for name, value, step in run.metrics if name == "val/best"] == [(0.5, 1), (0.7, 4)]
    assert run.tags == {"best_epoch": "4"}


def test_every_case_of_the_best_validation_is_in_a_table(tmp_path: Path) -> None:
    run, _ = run_training(tmp_path, [0.5])
    ((name, text),) = run.texts
    assert name == "validation/per_case.csv"
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["case"] for row in rows] == [f"case_{number}" for number in range(5)]
    for row, wrong in zip(rows, WRONG, strict=True):
        item = make_item(wrong)
        (expected,) = DiceMetric(include_background=False)(item["pred"][None], item["label"][None])
        assert float(row["anterior"]) == pytest.approx(float(expected[0]), abs=1e-6)
        assert row["posterior"] == "nan"  # in neither
        assert row["mean"] == row["anterior"]


def test_steps_and_samples_are_told_an_epoch_at_once(tmp_path: Path) -> None:
    run, _ = run_training(tmp_path, [0.5, 0.6])
    assert run.points == [("train/step_loss", float(step), step) for step in (1, 2, 3, 4)]
    rates = [value for name, value, _ in run.metrics if name == "train/samples_per_second"]
    assert len(rates) == 2 and all(rate > 0 for rate in rates)


def test_samples_of_all_processes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(100))
    # not the function in `time`, which other threads of the process ask, too
    monkeypatch.setattr("scanloom.pipeline.training.monitor.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setenv("WORLD_SIZE", "3")
    run = FakeRun()
    trainer, evaluator = Engine(lambda engine, batch: {"loss": 1.0}), make_evaluator([])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    Monitor(run, tmp_path / "metrics.csv", LABELS, lambda line, done=None: None).attach(trainer, evaluator, optimizer)  # type: ignore[arg-type]
    collated = {"case": ["a"] * 4, "image": torch.zeros(4, 1, 2, 2, 2)}
    decollated = [{"image": torch.zeros(1, 2, 2, 2)}] * 2
    trainer.run([collated, decollated], max_epochs=1)
    told = {name: value for name, value, _ in run.metrics}
    assert told["train/seconds"] == 2.0
    assert told["train/samples_per_second"] == 3 * (4 + 2) / 2.0


@pytest.mark.parametrize("shape", [(64, 64, 64), (600, 5, 1100), (2000, 1030)])
def test_of_a_case_its_slices_are_kept_and_not_its_volume(shape: tuple[int, ...]) -> None:
    labels = np.zeros(shape, int)
    labels[1:3, 1:4] = 2
    picture = picture_of(np.random.default_rng(0).random(shape, np.float32), labels, labels, spacing=(1.0,) * 3)
    for _, planes, _ in picture.sections:
        for plane in planes:
            owner = plane if plane.base is None else plane.base
            assert owner.dtype == np.uint8 and owner.nbytes == plane.size <= 512 * 512


def test_a_thinned_picture_keeps_its_shape() -> None:
    flat = np.zeros((2000, 400), int)
    ((_, planes, aspect),) = picture_of(flat.astype(float), flat, flat, spacing=(1, 3)).sections
    rows, columns = planes[0].shape
    assert (rows, columns) == (400, 500)
    assert aspect * rows / columns == pytest.approx(3 * 400 / 2000)


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([], {}),
        ([0.5], {"best": 0}),
        ([0.5, 0.9], {"best": 1, "worst": 0}),
        ([0.5, 0.5, 0.5], {"best": 0, "median": 1, "worst": 2}),
        ([float("nan"), 0.1, 0.9, float("nan"), 0.5], {"best": 2, "median": 4, "worst": 1}),
    ],
)
def test_fewer_cases_equal_cases_and_empty_cases_are_chosen_from(dice: list[float], expected: dict[str, int]) -> None:
    cases = [(str(number), Picture((), {1: value})) for number, value in enumerate(dice)]
    assert {which: int(name) for which, (name, _) in best_median_worst(cases).items()} == expected


def collated(shape: tuple[int, ...], *, one_hot_labels: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Batch and output of an evaluator for two cases; the prediction of the second is of nothing."""
    reference = np.zeros((2, 1, *shape), int)
    reference[:, :, 1:3, 1:4] = 2
    prediction = reference.copy()
    prediction[1] = 0
    labels, predictions = (
        torch.stack([one_hot(case[0]) for case in each]) if one_hot_labels else torch.as_tensor(each)
        for each in (reference, prediction)
    )
    output = {"image": torch.rand(2, 1, *shape), "label": labels, "pred": predictions, "loss": torch.zeros(())}
    return {"case": ["first", "second"], "image": output["image"]}, output


@pytest.mark.parametrize("one_hot_labels", [True, False])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5)])
def test_cases_of_any_batch_are_scored_as_monai_scores_them(shape: tuple[int, ...], one_hot_labels: bool) -> None:
    batch, output = collated(shape, one_hot_labels=one_hot_labels)
    whole = list(validated_cases(batch, output, LABELS))
    parts = list(validated_cases(decollate_batch(batch), decollate_batch(output), LABELS))
    _, scored = collated(shape, one_hot_labels=True)
    expected = DiceMetric(include_background=False)(scored["pred"], scored["label"]).numpy()
    for cases in (whole, parts):
        assert [name for name, _ in cases] == ["first", "second"]
        for (_, picture), values in zip(cases, expected, strict=True):
            np.testing.assert_allclose(list(picture.dice.values()), values)  # nan where there is none


def test_dice_of_many_labels_are_monais() -> None:
    random = np.random.default_rng(3)
    reference, prediction = random.integers(0, 40, (2, 12, 13, 14))
    reference[reference == 7] = 0
    prediction[prediction == 7] = 0
    volumes = [torch.as_tensor(each)[None, None] for each in (prediction, reference)]
    expected = DiceMetric(include_background=False, num_classes=41)(*volumes)[0].numpy()
    labels = [LabelClass(value, str(value), CODE, CODE, None, (0, 0, 0)) for value in range(1, 41)]
    found = picture_of(np.zeros((12, 13, 14)), reference.astype(np.uint64), prediction, labels).dice
    np.testing.assert_allclose([found[value] for value in range(1, 41)], expected, rtol=1e-6)
    assert np.isnan(found[7]) and np.isnan(found[40])


class OnDevice(torch.Tensor):
    """A tensor that numpy can not read, as one on a GPU, until it is brought to the host."""

    def __array__(self, dtype: Any = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    def numpy(self, *, force: bool = False) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    def cpu(self, *args: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("one_hot_labels", [True, False])
def test_cases_on_a_gpu_are_brought_to_the_host(one_hot_labels: bool) -> None:
    _, output = collated((4, 5, 6), one_hot_labels=one_hot_labels)
    items = [
        {key: output[key][number].as_subclass(OnDevice) for key in ("image", "label", "pred")} for number in (0, 1)
    ]
    cases = list(validated_cases([], items, LABELS))
    assert [picture.mean_dice for _, picture in cases] == [1.0, 0.0]


def test_a_case_that_the_dataset_does_not_name_is_called_by_its_file_or_its_number() -> None:
    item = make_item(0)
    file = {"filename_or_obj": "/somewhere/of/this/machine/scan_7.nii.gz"}
    from_file = {**item, "image": MetaTensor(item["image"], meta=file)}
    batches: list[Any] = [[{}, {}], [(1, 2), (3, 4)], torch.zeros(2)]
    for batch in batches:
        assert [name for name, _ in validated_cases(batch, [item, from_file], LABELS, 3)] == ["case 4", "scan_7"]


def test_labels_on_another_grid_than_the_image_are_shown_without_it() -> None:
    item = {**make_item(1), "image": torch.rand(1, 9, 3, 2)}
    ((_, picture),) = validated_cases([], [item], LABELS)
    (_, (image, reference, _), _) = picture.sections[0]
    assert image.shape == reference.shape and not image.any() and reference.any()
    assert 0 < picture.mean_dice < 1


def write_metrics(path: Path, metrics: dict[str, list[float]]) -> Path:
    rows = [f"{epoch},{name},{value}" for name, values in metrics.items() for epoch, value in enumerate(values, 1)]
    path.write_text("\n".join(["epoch,metric,value", *rows]) + "\n")
    return path


NAN = float("nan")


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ({"val/mean_dice": [0.5, 0.7]}, 2),
        ({"val/mean_dice": [0.7, 0.7]}, 1),
        ({"val/mean_dice": [NAN, 0.7], "val/dice/a$b$": [NAN, NAN]}, 2),
        ({"val/mean_iou": [0.5, 0.7]}, None),
        ({}, None),
    ],
)
def test_the_learning_curve_is_drawn_from_the_whole_file(
    tmp_path: Path, metrics: dict[str, list[float]], best: int | None
) -> None:
    training = {"train/loss": [2.0, 1.0], "train/learning_rate": [0.1, 0.2]}
    figure = learning_curve(write_metrics(tmp_path / "metrics.csv", {**training, **metrics}))
    above, below, rate = figure.axes
    assert above.lines[0].get_ydata().tolist() == [2.0, 1.0]
    assert rate.lines[0].get_ydata().tolist() == [0.1, 0.2]
    assert figure.get_suptitle() == "2 epochs" + (f", best mean Dice 0.7000 in epoch {best}" if best else "")
    for axes in (above, below):
        marked = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert marked == ([best] if best else [])
    figure.savefig(tmp_path / "curve.png")


def test_a_label_far_below_the_mean_is_within_the_learning_curve(tmp_path: Path) -> None:
    metrics = {
        "val/mean_dice": [0.0] + [0.6] * 9,
        "val/dice/anterior": [0.0] + [0.9] * 9,
        "val/dice/x": [0.0] + [0.3] * 9,
    }
    figure = learning_curve(write_metrics(tmp_path / "metrics.csv", metrics), LABELS)
    below = figure.axes[1]
    assert 0.2 < below.get_ylim()[0] < 0.3
    assert {line.get_label(): line.get_color() for line in below.lines}["anterior"] == (230 / 255, 159 / 255, 0)


def test_the_curve_of_a_finished_training_is_logged_once_more(tmp_path: Path) -> None:
    run = FakeRun()
    monitor = Monitor(run, tmp_path / "metrics.csv", LABELS, lambda line, done=None: None)  # type: ignore[arg-type]
    monitor.finish()
    assert not run.figures  # nothing was trained
    write_metrics(tmp_path / "metrics.csv", {"train/loss": [2.0, 1.0]})
    monitor.finish()
    assert [name for name, _ in run.figures] == ["training/learning_curve.png"]


def test_rows_after_an_epoch_can_be_forgotten(tmp_path: Path) -> None:
    run_training(tmp_path, [0.5, 0.6, 0.7])
    forget_after(tmp_path / "metrics.csv", 2)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"1", "2"}
    forget_after(tmp_path / "none.csv", 2)
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("torn", ["3", "1", "3,train/loss", "3,train/loss,", ""])
def test_a_row_that_a_kill_cut_off_is_forgotten(tmp_path: Path, torn: str) -> None:
    path = write_metrics(tmp_path / "metrics.csv", {"train/loss": [2.0, 1.0]})
    whole = path.read_text()
    path.write_text(whole + torn)
    forget_after(path, 3)
    assert path.read_text() == whole


def test_a_picture_names_labels_and_their_dice() -> None:
    reference = np.zeros((6, 7, 8), int)
    reference[2:4, 2:4, 2:4] = 1
    prediction = np.zeros_like(reference)
    prediction[2:4, 2:4, 2] = 1
    figure = overlay_figure(np.random.default_rng(0).random((6, 7, 8)), reference, prediction, "case", LABELS)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    expected = ["anterior, Dice 0.667", "posterior, Dice - (absent)", "dashed: reference", "solid: prediction"]
    assert texts == expected
    assert [axes.get_title() for axes in figure.axes] == ["sagittal, slice 2", "coronal, slice 2", "axial, slice 2"]


def test_a_picture_shows_the_patients_right_on_the_left_and_the_voxels_shape() -> None:
    image = np.random.default_rng(0).random((6, 7, 8))
    figure = overlay_figure(image, np.ones((6, 7, 8), int), np.zeros((6, 7, 8), int), "case", spacing=(1, 2, 3))
    for axes, aspect in zip(figure.axes, (3 / 2, 3, 2), strict=True):
        left, right = axes.get_xlim()
        assert left > right and axes.get_aspect() == pytest.approx(aspect)
    assert figure.legends[0].get_texts()[0].get_text() == "label 1, Dice 0.000"


def test_a_picture_of_many_labels_names_those_with_the_lowest_dice(tmp_path: Path) -> None:
    reference = np.arange(100).reshape(100, 1, 1).repeat(4, 1).repeat(4, 2)
    prediction = reference.copy()
    prediction[10:30, 0] = 0
    figure = overlay_figure(reference.astype(float), reference, prediction, "a$b$ _c^", LABELS)
    *texts, _, _ = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 24 and {f"label {value}, Dice 0.857" for value in range(10, 30)} < set(texts)
    figure.savefig(tmp_path / "picture.png")  # a name with $ is no formula
    assert figure.get_suptitle() == "a$b$ _c^"


def test_what_is_no_number_in_an_image_is_black() -> None:
    image = np.full((8, 8), 5.0)
    image[0, 0], image[1, 1], image[2, 2] = np.nan, np.inf, 9.0
    nothing = np.zeros((8, 8), int)
    ((_, (shown, _, _), _),) = picture_of(image, nothing, nothing).sections
    assert (shown[0, 0], shown[1, 1], shown[2, 2], shown[3, 3]) == (0, 255, 255, 0)


@pytest.mark.parametrize("shape", [(6, 7, 8), (6, 7)])
def test_a_picture_of_no_label_or_of_a_flat_image_is_one_too(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, int)
    figure = overlay_figure(np.zeros(shape), nothing, nothing, "case")
    assert len(figure.axes) == (3 if len(shape) == 3 else 1)


def test_the_best_metric_survives_in_a_checkpoint() -> None:
    evaluator, restored = make_evaluator([]), make_evaluator([])
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.8, 4  # type: ignore[attr-defined]
    BestMetric(restored, []).load_state_dict(BestMetric(evaluator, []).state_dict())
    assert (restored.state.best_metric, restored.state.best_metric_epoch) == (0.8, 4)  # type: ignore[attr-defined]
