"""The ensemble: its probabilities are the mean of its members', to the last digits, and inference takes it as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scanloom.networks import Ensemble, ResNetUNet, UNet
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


class Fixed(nn.Module):
    """Returns the same logits for every image."""

    def __init__(self, logits: Tensor, **attributes: Any) -> None:
        super().__init__()
        self.logits = logits
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


def make_logits(channels: int, scale: float = 5.0) -> list[Tensor]:
    return [scale * torch.randn(2, channels, 3, 4, 5) for _ in range(3)]


def make_members(count: int = 3, **options: Any) -> list[UNet]:
    """Small networks that differ, their batch norms with statistics as after a training."""
    settings = {"features": [2, 4], "padding": "same", "norm": "batch", "out_channels": 3, **options}
    members = [UNet(**settings) for _ in range(count)]
    for member in members:
        for name, buffer in member.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 2)
    return members


def mean_probabilities(logits: Sequence[Tensor], sigmoid: bool) -> Tensor:
    """In float64, by definition."""
    each = [one.double().sigmoid() if sigmoid else one.double().softmax(1) for one in logits]
    return torch.stack(each).mean(0)


@pytest.mark.parametrize(
    ("channels", "activation", "sigmoid"),
    [(3, "auto", False), (3, "softmax", False), (3, "sigmoid", True), (1, "auto", True), (1, "sigmoid", True)],
)
def test_its_probabilities_are_the_mean_of_its_members(channels: int, activation: str, sigmoid: bool) -> None:
    logits = make_logits(channels)
    output = Ensemble([Fixed(one) for one in logits], activation)(torch.zeros(1))
    expected = mean_probabilities(logits, sigmoid)
    found = output.sigmoid() if sigmoid else output.softmax(1)
    assert output.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-7)  # some roundings of float32
    if not sigmoid:
        torch.testing.assert_close(output.double(), expected.log(), rtol=2e-6, atol=1e-6)
        assert torch.equal(output.argmax(1), expected.argmax(1))
    else:
        torch.testing.assert_close(output.double(), expected.logit(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_beyond_what_probabilities_can_hold_stay_finite_and_exact(channels: int) -> None:
    logits = [torch.full((1, channels, 2), -200.0), torch.full((1, channels, 2), -400.0)]
    for one in logits:
        one[:, 0, 0] = 300.0
    output = Ensemble([Fixed(one) for one in logits])(torch.zeros(1)).double()
    if channels == 1:
        stacked = torch.stack(logits).double()
        expected = logsigmoid(stacked).logsumexp(0) - logsigmoid(-stacked).logsumexp(0)
    else:
        expected = torch.stack(logits).double().log_softmax(2).logsumexp(0) - torch.tensor(2.0).double().log()
    assert output.isfinite().all()
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)


def test_one_member_alone_keeps_its_probabilities() -> None:
    (logits,) = make_logits(4)[:1]
    output = Ensemble([Fixed(logits)])(torch.zeros(1))
    torch.testing.assert_close(output.softmax(1), logits.softmax(1))


def test_half_precision_members_are_averaged_in_float32_and_double_ones_in_double() -> None:
    logits = [one.bfloat16() for one in make_logits(3)]
    output = Ensemble([Fixed(one) for one in logits])(torch.zeros(1))
    torch.testing.assert_close(output.softmax(1).double(), mean_probabilities(logits, False), rtol=2e-6, atol=1e-7)
    members = make_members()
    assert Ensemble(members).double()(torch.randn(1, 1, 8, 8).double()).dtype == torch.float64


def test_it_predicts_as_its_members_do_in_evaluation_whatever_train_says() -> None:
    members, image = make_members(features=[2, 4, 4], deep_supervision=1), torch.randn(1, 1, 12, 12)
    ensemble = Ensemble(members).train()
    with torch.no_grad():
        expected = mean_probabilities([member.eval()(image) for member in members], False)
        ensemble.train()
        before = {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}
        found = ensemble(image).softmax(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ensemble.state_dict().items())


def test_trained_weights_of_the_members_load_under_their_numbers() -> None:
    members = make_members(2)
    state = {f"members.{i}.{name}": value for i, one in enumerate(members) for name, value in one.state_dict().items()}
    other = Ensemble(make_members(2))
    other.load_state_dict(state)
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(other(image), Ensemble(members)(image))


def test_what_inference_reads_of_a_network_is_right_for_every_member() -> None:
    members = [
        Fixed(torch.zeros(1), size_divisor=(4, 6), receptive_field_voxels=(9, 5), padding="same"),
        Fixed(torch.zeros(1), size_divisor=(8, 4), receptive_field_voxels=(3, 7), padding="same"),
    ]
    ensemble = Ensemble(members)
    assert (ensemble.size_divisor, ensemble.receptive_field_voxels) == ((8, 12), (9, 7))
    assert ensemble.padding == "same"
    alike = Ensemble(make_members())
    assert alike.size_divisor == alike.members[0].size_divisor
    assert alike.receptive_field_voxels == alike.members[0].receptive_field_voxels
    assert alike.output_size((9, 9)) == (9, 9)


def test_what_a_member_does_not_say_the_ensemble_does_not_say() -> None:
    ensemble = Ensemble([*make_members(1), nn.Conv2d(1, 3, 1)])
    assert not any(hasattr(ensemble, name) for name in ("size_divisor", "receptive_field_voxels", "output_size"))
    residual = Ensemble([ResNetUNet(pretrained=False, depth=18), ResNetUNet(pretrained=False, depth=18)])
    assert residual.size_divisor == (32, 32) and not hasattr(residual, "padding")


def test_no_input_voxel_outside_its_receptive_field_has_a_say() -> None:
    ensemble = Ensemble(make_members(2, features=[4, 4], activation="silu"))
    image = torch.randn(1, 1, 64, 64, requires_grad=True)
    ensemble(image)[0, :, 30, 33].sum().backward()
    rows, columns = image.grad[0, 0].nonzero().unbind(1)
    reach = [field // 2 for field in ensemble.receptive_field_voxels]
    assert (rows - 30).abs().max() <= reach[0] and (columns - 33).abs().max() <= reach[1]
    assert (rows - 30).abs().max() > 1


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, r"members is empty; an ensemble needs at least one network"),
        ([nn.Conv2d(1, 2, 1)], {"activation": "tanh"}, r"activation is 'tanh'"),
        (
            [UNet(features=[2, 2], padding="same"), UNet(features=[2, 2])],
            {},
            r"the members' padding is \['same', 'valid'\]; an ensemble needs outputs of one size",
        ),
    ],
)
def test_wrong_arguments_are_refused(members: list[nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ensemble(members, **options)


def test_members_with_other_outputs_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"member 1 makes \(1, 3, 8, 8\) of \(1, 1, 8, 8\), the first one \(1, 2, 8, 8\)"
    ):
        Ensemble([nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1)])(torch.zeros(1, 1, 8, 8))
