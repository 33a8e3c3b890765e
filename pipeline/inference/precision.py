"""In which precision a network computes: chosen, and what to say where the choice is a slow one."""

from __future__ import annotations

import torch

from ..device import has_bf16
from ..errors import PipelineError, UsageError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FREE_DICE_COST = 0.001  # mean Dice that bf16 may cost before it is no longer taken unasked


class NotNumbersError(PipelineError):
    """The network's outputs hold NaN; where that is in half precision, fp32 may do better."""


def choose_precision(requested: str, device: torch.device, bf16_dice_cost: float | None) -> str:
    """The precision to compute in: "fp32", "bf16" or "fp16".

    "auto" is bf16 where the device computes in it and it is known to cost this bundle less than 0.001 of Dice; else
    fp32. Whatever is asked for by name is taken, but for fp16 on a processor.

    Args:
        requested: "auto", "fp32", "bf16" or "fp16".
        device: what the network runs on.
        bf16_dice_cost: mean Dice in fp32 less that in bf16, as measured for the bundle; None where it was not.
    Raises:
        UsageError: there is no such precision, or the processor can not compute in it.
    """
    if requested not in PRECISIONS:
        raise UsageError(f"--precision {requested}: there is no such precision. Use one of {', '.join(PRECISIONS)}.")
    if requested == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16: a processor does not compute in fp16. Use auto, fp32 or bf16, or a GPU.")
    if requested != "auto":
        return requested
    harmless = bf16_dice_cost is not None and bf16_dice_cost < FREE_DICE_COST
    return "bf16" if harmless and has_bf16(device) else "fp32"


def precision_notice(precision: str, device: torch.device) -> str | None:
    """One line to show the user where the precision is slower than fp32 on this device; None elsewhere."""
    if precision != "bf16" or has_bf16(device):
        return None
    return f"bf16 is emulated on {device.type}: this device has no units for it, and fp32 is faster."
