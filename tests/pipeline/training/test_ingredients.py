"""The lines of docs/training.md: each block trains, and does what its heading says; the traps told of are there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import IterationEvents
from monai.losses import DeepSupervisionLoss, DiceLoss, FocalLoss, GeneralizedDiceLoss
from scanloom.pipeline.bundle import find_bundle
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

REPOSITORY = Path(__file__).resolve().parents[3]
BASE = find_bundle("hippocampus_mr_unet").config("train")
SMALL = {
    "network_def#features": [2, 4, 4],
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "roi_size": [16, 16, 16],
    "precision": "fp32",
    "epochs": 3,
    "folds": 3,
    "val_interval": 1,
    "device": "$torch.device('cpu')",
}
STEPS_AN_EPOCH = 2  # of four crops in batches of two


@cache
def page() -> str:
    return (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")


def blocks() -> dict[str, dict[str, Any]]:
    """Heading -> the config lines under it."""
    sections = [section for section in re.split(r"^###? ", page(), flags=re.MULTILINE) if "```yaml\n" in section]
    found = {}
    for section in sections:
        heading, rest = section.split("\n", 1)
        found[heading] = yaml.safe_load(rest.split("```yaml\n", 1)[1].split("```", 1)[0])
    return found


@dataclass
class Trained:
    """A training with a block's lines, and what was seen of it at each step."""

    parser: ConfigParser
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    batches: list[Mapping[str, Any]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)

    def made(self, key: str) -> Any:
        return self.parser.get_parsed_content(key)

    def run(self) -> None:
        trainer, optimizer, network = (self.made(key) for key in ("train#trainer", "optimizer", "network"))

        def before_step(engine: Any) -> None:
            self.rates.append(optimizer.param_groups[0]["lr"])
            self.gradients.append(torch.cat([each.grad.flatten() for each in network.parameters()]).clone())

        def after_step(engine: Any) -> None:
            self.losses.append(float(engine.state.output["loss"].detach()))
            self.batches.append(engine.state.batch)
            self.remember()

        def after_validation(engine: Any) -> None:
            self.metrics.append(engine.state.metrics["val_mean_dice"])

        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, before_step)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, after_step)
        self.made("validate#evaluator").add_event_handler(Events.EPOCH_COMPLETED, after_validation)
        network.heads[0].register_forward_hook(lambda module, inputs, output: self.dtypes.append(output.dtype))
        self.remember()
        trainer.run()

    def remember(self) -> None:
        state = self.made("network").state_dict()
        self.weights.append({name: tensor.detach().clone() for name, tensor in state.items()})

    def step(self, number: int) -> Tensor:
        """By how much the parameters moved in a step, in one vector."""
        names = [name for name, _ in self.made("network").named_parameters()]
        after, before = self.weights[number + 1], self.weights[number]
        return torch.cat([(after[name] - before[name]).flatten() for name in names])

    def vector(self, number: int) -> Tensor:
        names = [name for name, _ in self.made("network").named_parameters()]
        return torch.cat([self.weights[number][name].flatten() for name in names])


def configure(folder: Path, dataset: Path, *lines: Mapping[str, Any]) -> Trained:
    """The bundle's own train config, made small, with these lines merged into it as MONAI merges config files."""
    files = [BASE]
    for number, content in enumerate([{**SMALL, "dataset_dir": str(dataset), "output_dir": str(folder)}, *lines]):
        files.append(folder / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    return Trained(ConfigParser(ConfigParser.load_config_files(files)))


def pair(classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(2, classes, 8, 8, 8, requires_grad=True), torch.randint(max(classes, 2), (2, 1, 8, 8, 8)).float()


def one_hot(label: Tensor, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(label[:, 0].long(), classes).movedim(-1, 1).float()


def by_hand_dice(logits: Tensor, label: Tensor, weights: tuple[float, ...] = (1.0, 1.0)) -> Tensor:
    """One less the soft Dice of each foreground class over the whole batch."""
    p, g = logits.softmax(1)[:, 1:], one_hot(label)[:, 1:]
    dims = (0, 2, 3, 4)
    scores = 1 - 2 * (p * g).sum(dims) / (p.sum(dims) + g.sum(dims))
    return (torch.tensor(weights) * scores).mean()


def check_loss(trained: Trained, expected: Callable[[Tensor, Tensor], Tensor], classes: int = 3) -> None:
    logits, label = pair(classes)
    torch.testing.assert_close(trained.made("loss")(logits, label), expected(logits, label), rtol=1e-4, atol=1e-5)


def check_dice_and_entropy(trained: Trained) -> None:
    check_loss(trained, lambda logits, label: by_hand_dice(logits, label) + cross_entropy(logits, label[:, 0].long()))


def check_dice(trained: Trained) -> None:
    check_loss(trained, by_hand_dice)


def check_entropy(trained: Trained) -> None:
    check_loss(trained, lambda logits, label: cross_entropy(logits, label[:, 0].long()))


def check_bce(trained: Trained) -> None:
    check_loss(trained, binary_cross_entropy_with_logits, classes=1)
    logits, label = pair(1)
    assert trained.made("loss")(logits + 50, label + 2) < 0  # a label of 2 or 3 is no error
    assert all(0 <= metric <= 1 for metric in trained.metrics) and len(trained.metrics) == 3


def check_focal(trained: Trained) -> None:
    def expected(logits: Tensor, label: Tensor) -> Tensor:
        p = (logits.softmax(1) * one_hot(label)).sum(1)
        return (-((1 - p) ** 2) * p.log()).mean() / 3

    check_loss(trained, expected)


def check_tversky(trained: Trained) -> None:
    def expected(logits: Tensor, label: Tensor) -> Tensor:
        p, g = logits.softmax(1)[:, 1:], one_hot(label)[:, 1:]
        dims = (0, 2, 3, 4)
        hit, false_positive, false_negative = (p * g).sum(dims), (p * (1 - g)).sum(dims), ((1 - p) * g).sum(dims)
        return (1 - hit / (hit + 0.3 * false_positive + 0.7 * false_negative)).mean()

    check_loss(trained, expected)


def check_weights(trained: Trained) -> None:
    def expected(logits: Tensor, label: Tensor) -> Tensor:
        weights = torch.tensor([0.2, 1.0, 2.0])
        a_voxel = weights[label[:, 0].long()]
        entropy = cross_entropy(logits, label[:, 0].long(), reduction="none")
        return by_hand_dice(logits, label, (1.0, 2.0)) + (a_voxel * entropy).sum() / a_voxel.sum()

    check_loss(trained, expected)


def check_ignored(trained: Trained) -> None:
    logits, label = pair()
    label[:, :, :3] = 255
    loss = trained.made("loss")
    (gradient,) = torch.autograd.grad(loss(logits, label), logits)
    assert gradient[:, :, :3].abs().max() == 0 and gradient[:, :, 3:].abs().max() > 0
    torch.testing.assert_close(loss(logits, label), loss(logits[:, :, 3:], label[:, :, 3:]))


def check_centre_lines(trained: Trained) -> None:
    """A rod of five voxels across: of its middle three those about its skeleton count four times."""
    logits, label = torch.randn(2, 3, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8)
    label[:, :, 1:6, 1:6] = 2
    middle = trained.made("loss").loss.centre_lines(label)[:, 0].bool()
    assert middle[:, 2:5, 2:5, 3:5].all() and middle.sum() == middle[:, 2:5, 2:5].sum()
    entropy = cross_entropy(logits, label[:, 0].long(), reduction="none")
    torch.testing.assert_close(trained.made("loss")(logits, label), ((1 + 3 * middle.float()) * entropy).mean())


def check_cropped_label(trained: Trained) -> None:
    logits, label = pair()
    label = torch.nn.functional.pad(label, (2, 2) * 3)
    inner = trained.made("loss").loss.loss
    torch.testing.assert_close(trained.made("loss")(logits, label), inner(logits, label[:, :, 2:-2, 2:-2, 2:-2]))


def check_supervision(trained: Trained) -> None:
    logits, label = pair()
    coarse, loss = torch.randn(2, 3, 4, 4, 4), trained.made("loss")
    shrunk = label[:, :, 1::2, 1::2, 1::2]
    expected = 0.67 * loss.loss(logits, label) + 0.33 * loss.loss(coarse, shrunk)
    torch.testing.assert_close(loss([logits, coarse], label), expected)


def check_adam(trained: Trained) -> None:
    """The first step goes by the learning rate against the sign of the gradient."""
    gradient = trained.gradients[0]
    clear = gradient.abs() > 1e-5
    expected = -trained.rates[0] * gradient.sign()
    torch.testing.assert_close(trained.step(0)[clear], expected[clear], rtol=2e-3, atol=1e-9)


def check_adamw(trained: Trained) -> None:
    gradient, rate = trained.gradients[0], trained.rates[0]
    clear = gradient.abs() > 1e-5
    expected = -rate * gradient.sign() - 0.01 * rate * trained.vector(0)
    torch.testing.assert_close(trained.step(0)[clear], expected[clear], rtol=3e-3, atol=1e-8)


def check_nesterov(trained: Trained) -> None:
    momentum = torch.zeros_like(trained.gradients[0])
    for number in range(2):
        gradient = trained.gradients[number] + 0.00003 * trained.vector(number)
        momentum = 0.99 * momentum + gradient
        expected = -trained.rates[number] * (gradient + 0.99 * momentum)
        torch.testing.assert_close(trained.step(number), expected, rtol=1e-3, atol=1e-6)


def check_clipping(trained: Trained) -> None:
    norms = [float(torch.linalg.vector_norm(each)) for each in trained.gradients]
    before = float(trained.made("train#trainer").state.gradient_norm)
    assert max(norms) <= 12 * 1.0001 and norms[-1] == pytest.approx(min(before, 12), rel=1e-3)


def check_rates(trained: Trained, formula: Callable[[int], float]) -> None:
    base = trained.made("learning_rate")
    assert trained.rates == pytest.approx([base * formula(step) for step in range(3 * STEPS_AN_EPOCH)], rel=1e-6)


def check_poly(trained: Trained) -> None:
    check_rates(trained, lambda step: (1 - step / 6) ** 0.9)


def check_poly_of_epochs(trained: Trained) -> None:
    check_rates(trained, lambda step: (1 - step // STEPS_AN_EPOCH / 3) ** 0.9)


def check_cosine(trained: Trained) -> None:
    check_rates(
        trained, lambda step: 0.1 + 0.9 * step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 4))
    )


def check_plateau(trained: Trained) -> None:
    rate, best, expected = trained.made("learning_rate"), -math.inf, []
    for metric in trained.metrics:
        expected += [rate] * STEPS_AN_EPOCH
        rate, best = (rate, metric) if metric > best * (1 + 1e-4) else (rate / 2, best)
    assert trained.rates == pytest.approx(expected)
    scheduler, optimizer = trained.made("lr_scheduler"), trained.made("optimizer")
    scheduler.step(-1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)  # a metric that falls is worse


def check_stopping(trained: Trained) -> None:
    state, best = trained.made("early_stopping").state_dict(), max(trained.metrics)
    assert state["best_score"] == best
    assert state["counter"] == len(trained.metrics) - 1 - trained.metrics.index(best)


def check_bf16(trained: Trained) -> None:
    assert trained.dtypes[0] == torch.bfloat16
    assert all(each.dtype == torch.float32 for each in trained.made("network").parameters())


def check_fp16(trained: Trained) -> None:
    assert trained.made("train#trainer").scaler.get_scale() > 0


def check_ema(trained: Trained) -> None:
    ema = {name: tensor.clone() for name, tensor in trained.weights[0].items()}
    for weights in trained.weights[1:]:
        for name, tensor in weights.items():
            ema[name] = 0.99 * ema[name] + 0.01 * tensor if tensor.is_floating_point() else tensor
    found = trained.made("ema").ema_model.state_dict()
    assert any("running_mean" in name for name in found)
    for name, tensor in ema.items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def check_oversampling(trained: Trained) -> None:
    """Of many patches as small as to hold none by chance, a third has foreground in its middle."""
    assert {tuple(batch["label"].shape) for batch in trained.batches} == {(2, 1, 16, 16, 16)}
    crop = trained.made("train#random_crop")[1]
    crop.cropper.spatial_size = (2, 2, 2)
    crop.set_random_state(seed=0)
    label = torch.zeros(1, 20, 20, 20)
    label[:, 9:12, 9:12, 9:12] = 255  # any value above 0 is foreground
    hits = [float(crop({"image": label, "label": label})[0]["label"][0, 1, 1, 1] > 0) for _ in range(300)]
    assert 0.25 < sum(hits) / len(hits) < 0.42


def check_memory(trained: Trained) -> None:
    assert len(trained.made("train#dataset").dataset._cache) == 4


def check_disk(trained: Trained) -> None:
    folder = Path(trained.made("output_dir")) / "cache"
    assert len(list(folder.iterdir())) == 4
    item = trained.made("train#dataset")[0]
    assert torch.equal(torch.as_tensor(item["image"].affine).diagonal()[:3], torch.ones(3).double())


CHECKS: dict[str, Callable[[Trained], None]] = {
    "Dice + cross entropy": check_dice_and_entropy,
    "Dice": check_dice,
    "Cross entropy": check_entropy,
    "BCE with logits": check_bce,
    "Focal": check_focal,
    "Tversky": check_tversky,
    "Class weights": check_weights,
    "Ignore label": check_ignored,
    "Centre lines": check_centre_lines,
    "A network without padding": check_cropped_label,
    "Deep supervision weights": check_supervision,
    "Adam": check_adam,
    "AdamW": check_adamw,
    "SGD with Nesterov": check_nesterov,
    "Gradient clipping": check_clipping,
    "Poly": check_poly,
    "Poly, an epoch at a time": check_poly_of_epochs,
    "Cosine with warm-up": check_cosine,
    "Plateau": check_plateau,
    "Early stopping": check_stopping,
    "bf16": check_bf16,
    "fp16": check_fp16,
    "EMA weights": check_ema,
    "Oversampling of foreground": check_oversampling,
    "Caching in memory": check_memory,
    "Caching on disk": check_disk,
}
ON_CUDA = ("fp16",)


def test_every_block_of_the_page_has_its_check() -> None:
    assert sorted(blocks()) == sorted(CHECKS)
    assert page().count("```yaml") == len(CHECKS)


@pytest.mark.parametrize("heading", CHECKS)
def test_the_lines_of_the_page_train_and_do_what_they_say(heading: str, tmp_path: Path, crops: Path) -> None:
    lines = blocks()[heading]
    if heading in ON_CUDA:
        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")
        lines = {**lines, "device": "$torch.device('cuda')"}
    trained = configure(tmp_path, crops, lines)
    trained.run()
    assert all(map(math.isfinite, trained.losses)) and len(trained.losses) >= STEPS_AN_EPOCH
    assert trained.step(0).abs().max() > 0
    CHECKS[heading](trained)


@pytest.mark.parametrize(
    "heading", ["Poly", "Poly, an epoch at a time", "Cosine with warm-up", "Plateau", "Early stopping"]
)
def test_what_has_a_state_goes_on_from_a_checkpoint_as_it_would_have(heading: str, tmp_path: Path, crops: Path) -> None:
    """Interrupted after each of five steps, through a file that is read without running its code."""
    metrics = [0.5, 0.6, 0.55, 0.58, 0.61, 0.4]
    keys = ["early_stopping"] if heading == "Early stopping" else ["optimizer", "lr_scheduler"]

    def made() -> list[Any]:
        trained = configure(tmp_path, crops, blocks()[heading])
        if heading == "Early stopping":
            trained.made("train#trainer")
        return [trained.made(key) for key in keys]

    def advance(objects: list[Any], metric: float) -> dict[str, Any]:
        if heading == "Early stopping":
            objects[0].validator.state.key_metric_name = "m"
            objects[0].validator.state.metrics["m"] = metric
            objects[0]._rule(objects[0].validator)
            return objects[0].state_dict()
        objects[0].step()
        objects[1].step(*([metric] if heading == "Plateau" else []))
        return {"lr": objects[0].param_groups[0]["lr"]}

    whole, parts = made(), made()
    for metric in metrics:
        torch.save([each.state_dict() for each in parts], tmp_path / "states.pt")
        parts = made()
        for each, state in zip(parts, torch.load(tmp_path / "states.pt", weights_only=True), strict=True):
            each.load_state_dict(state)
        assert advance(parts, metric) == advance(whole, metric)


def test_a_smaller_norm_clips_harder(tmp_path: Path, crops: Path) -> None:
    lines = blocks()["Gradient clipping"]
    lines["+train#handlers"][0]["max_norm"] = 0.001
    trained = configure(tmp_path, crops, lines)
    trained.run()
    norms = [float(torch.linalg.vector_norm(each)) for each in trained.gradients]
    assert norms == pytest.approx([0.001] * len(norms), rel=1e-3)


@pytest.mark.parametrize(
    "heading", ["Dice + cross entropy", "Dice", "Cross entropy", "Focal", "Tversky", "Class weights"]
)
def test_a_network_learns_by_each_loss(heading: str) -> None:
    """Three classes at three brightnesses: after some steps most voxels are right."""
    loss = ConfigParser({"device": "$torch.device('cpu')", **nested(blocks()[heading])}).get_parsed_content("loss#loss")
    network = nn.Sequential(nn.Conv3d(1, 8, 1), nn.ReLU(), nn.Conv3d(8, 3, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    label = torch.randint(3, (2, 1, 8, 8, 8)).float()
    image = label - 1 + 0.1 * torch.randn(label.shape)
    for _ in range(150):
        optimizer.zero_grad()
        loss(network(image), label).backward()
        optimizer.step()
    assert (network(image).argmax(1, keepdim=True) == label).float().mean() > 0.95


def nested(lines: Mapping[str, Any]) -> dict[str, Any]:
    parser = ConfigParser({"loss": {}})
    parser.update(dict(lines))
    return dict(parser.get())


# What the page warns of


def test_a_patch_without_a_class_teaches_it_little_where_every_patch_has_its_own_dice() -> None:
    logits, label = pair()
    label[0] = 0
    steep = []
    for batch in (False, True):
        loss = DiceLoss(to_onehot_y=True, softmax=True, include_background=False, batch=batch)
        steep.append(torch.autograd.grad(loss(logits, label), logits)[0][0].abs().max())
    assert steep[0] < steep[1] / 100


def test_dice_takes_logits_for_probabilities_where_no_activation_is_named() -> None:
    logits, label = pair()
    found = DiceLoss(to_onehot_y=True)(logits, label)
    assert torch.equal(found, DiceLoss(to_onehot_y=True, other_act=lambda values: values)(logits, label))
    assert not torch.isclose(found, DiceLoss(to_onehot_y=True, softmax=True)(logits, label), rtol=0.05)


def test_for_one_channel_dice_ignores_softmax_and_warns() -> None:
    logits, label = pair(1)
    with pytest.warns(UserWarning, match="single channel prediction, `softmax=True` ignored"):
        found = DiceLoss(softmax=True)(logits, label)
    assert torch.equal(found, DiceLoss()(logits, label))  # of the logits as they are
    with pytest.warns(UserWarning, match="`include_background=False` ignored"):
        DiceLoss(sigmoid=True, include_background=False)(logits, label)


def test_generalised_dice_lets_a_patch_without_foreground_predict_anything() -> None:
    logits, label = pair()
    loss = GeneralizedDiceLoss(to_onehot_y=True, softmax=True, include_background=False)
    found = loss(logits, torch.zeros_like(label))
    (gradient,) = torch.autograd.grad(found, logits)
    assert found == 0 and gradient.abs().max() == 0


def test_focal_is_divided_by_the_classes_too() -> None:
    logits, label = pair()
    found = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0)(logits, label)
    torch.testing.assert_close(found, cross_entropy(logits, label[:, 0].long()) / 3)


def test_focal_without_the_background_sees_nothing_of_a_single_class() -> None:
    logits, label = pair(2)
    found = FocalLoss(to_onehot_y=True, use_softmax=True, include_background=False)(logits, label)
    (gradient,) = torch.autograd.grad(found, logits)
    assert found == 0 and gradient.abs().max() == 0


def test_fewer_deep_supervision_weights_than_heads_are_ignored() -> None:
    logits, label = pair()
    heads = [logits, torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 2, 2, 2)]
    one = DiceLoss(to_onehot_y=True, softmax=True)
    assert torch.equal(
        DeepSupervisionLoss(one, weights=[0.9, 0.1])(heads, label), DeepSupervisionLoss(one)(heads, label)
    )


def test_the_cosines_first_step_is_lost_without_a_multiplier(tmp_path: Path, crops: Path) -> None:
    lines = blocks()["Cosine with warm-up"]
    del lines["lr_scheduler"]["warmup_multiplier"]
    assert configure(tmp_path, crops, lines).made("lr_scheduler").get_last_lr() == [0.0]


def test_one_cycle_moves_the_momentum_unless_it_is_told_not_to(tmp_path: Path, crops: Path) -> None:
    lines = blocks()["SGD with Nesterov"]
    del lines["lr_scheduler#cycle_momentum"]
    trained = configure(tmp_path, crops, lines)
    trained.made("lr_scheduler")
    assert 0.85 <= trained.made("optimizer").param_groups[0]["momentum"] <= 0.95  # not 0.99


def test_our_inferer_would_switch_the_autocast_of_fp16_off() -> None:
    from scanloom.pipeline.training.step import AutocastInferer

    seen: list[torch.dtype] = []
    network = nn.Conv3d(1, 1, 1)
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.float16):
        AutocastInferer("fp32")(torch.randn(1, 1, 2, 2, 2), network)
    assert seen == [torch.float32]


def test_a_cache_on_disk_outlives_its_preprocessing_without_a_hash(tmp_path: Path, crops: Path) -> None:
    def mean(hashed: bool, **more: Any) -> float:
        lines = blocks()["Caching on disk"]
        if not hashed:
            del lines["train#dataset#dataset"]["hash_transform"]
        return float(
            configure(tmp_path, crops, lines, more)
            .made("train#dataset")
            .dataset._cachecheck(configure(tmp_path, crops, lines, more).made("train#dataset").dataset.data[0])["image"]
            .mean()
        )

    shifted = {"+preprocessing_steps": [{"_target_": "ShiftIntensityd", "keys": "image", "offset": 5.0}]}
    assert mean(True) == pytest.approx(0, abs=1e-4)
    assert mean(True, **shifted) == pytest.approx(5, abs=1e-4)
    assert mean(False) == pytest.approx(0, abs=1e-4)
    assert mean(False, **shifted) == pytest.approx(0, abs=1e-4)  # stale
