"""The network, run at sizes that the metadata allow: what it makes is what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .configs import entry
from .finding import Finding, shown
from .schema import METADATA
from .shapes import lengths, sizes_to_try

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE, PRED = "network_data_format#inputs#image", "network_data_format#outputs#pred"
WRITE_SIZES = 'Write whole numbers, or expressions in n and p such as "16*n".'


def forward_findings(metadata: Mapping[str, Any], network: nn.Module) -> Iterator[Finding]:
    """A fault where the network does not take a size, or makes other channels, types or sizes than the metadata say."""
    image, pred = entry(metadata, IMAGE), entry(metadata, PRED)
    try:
        tries = sizes_to_try(image["spatial_shape"])
        sizes = [lengths(image["spatial_shape"], n, p) for n, p in tries]
        channels, kind = int(image["num_channels"]), str(image["dtype"])
    except ValueError as error:
        yield Finding(METADATA, f"{IMAGE}#spatial_shape", shown(image["spatial_shape"]), str(error), WRITE_SIZES)
        return
    except (LookupError, TypeError):
        return  # the schema has said so
    for (n, p), size in zip(tries, sizes, strict=True):
        found = [*_tried(network, (1, channels, *size), kind, pred, (n, p), image)]
        yield from found
        if found:
            return


def _tried(
    network: nn.Module,
    shape: Sequence[int],
    kind: str,
    pred: Any,
    variables: tuple[int, int],
    image: Mapping[str, Any],
) -> Iterator[Finding]:
    import torch

    from ..bundle_network import last_line

    where = f"for an image of {' x '.join(map(str, shape[1:]))} (n = {variables[0]}, p = {variables[1]})"
    try:
        with torch.inference_mode():
            output = network.eval()(torch.rand(shape).to(getattr(torch, kind)))
    except Exception as error:  # whatever the bundle's network raises
        problem = f"the network fails {where}: {last_line(error)}"
        remedy = 'Write the sizes that it takes, such as "16*n" for multiples of 16, and its channels.'
        yield Finding(METADATA, f"{IMAGE}#spatial_shape", shown(image["spatial_shape"]), problem, remedy)
        return
    if not isinstance(output, torch.Tensor):
        problem = f"the network makes a {type(output).__name__} {where}"
        remedy = "Take a network that makes one tensor in evaluation; MONAI's programs want that, too."
        yield Finding(METADATA, PRED, shown(sorted(pred)), problem, remedy)
        return
    yield from _compared(output, pred, variables, where)


def _compared(output: Tensor, pred: Any, variables: tuple[int, int], where: str) -> Iterator[Finding]:
    if not isinstance(pred, Mapping):
        return
    made = {"num_channels": output.shape[1], "dtype": str(output.dtype).removeprefix("torch.")}
    for key, value in made.items():
        if key in pred and pred[key] != value:
            problem = f"the network makes {value} {where}"
            yield Finding(METADATA, f"{PRED}#{key}", shown(pred[key]), problem, f"Write {shown(value)}.")
    try:
        wanted = lengths(pred["spatial_shape"], *variables)
    except ValueError as error:
        yield Finding(METADATA, f"{PRED}#spatial_shape", shown(pred["spatial_shape"]), str(error), WRITE_SIZES)
        return
    except (LookupError, TypeError):
        return  # the schema has said so
    if "*" not in pred["spatial_shape"] and tuple(output.shape[2:]) != wanted:
        size = " x ".join(map(str, output.shape[2:]))
        problem = f"the network makes {size} {where}"
        remedy = "Write the sizes of what it makes, in the n and p of the image's."
        yield Finding(METADATA, f"{PRED}#spatial_shape", shown(pred["spatial_shape"]), problem, remedy)
