"""Pretrained weights for the ResNet encoder: torchvision's for ImageNet, MedicalNet's, or a file of the user's."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from .resnet_encoder import ResNetEncoder

SOURCE = "https://download.pytorch.org/models/"
# torchvision's IMAGENET1K_V1 files; a name ends in the first eight hex digits of the file's SHA-256.
IMAGENET_FILES = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
}
IGNORED = ("fc.", "conv_seg.")  # torchvision's classifier, MedicalNet's segmentation head
COUNTER = "num_batches_tracked"  # older files lack it, and only a batch norm without momentum reads it


def imagenet_file(depth: int) -> Path:
    """torchvision's ImageNet weights of that depth, downloaded into torch.hub's folder if they are not there yet.

    Args:
        depth: 18, 34, 50, 101 or 152.
    Returns:
        The file, its SHA-256 checked against the digits in its name.
    Raises:
        OSError: it can not be downloaded; the message says how to pass a file.
        ValueError: the bytes are not the published ones.
    """
    name = IMAGENET_FILES[depth]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(SOURCE + name, path)
    check_sha256(path)
    return path


def check_sha256(path: Path) -> None:
    """Checks a file that has the name of a published one; any other is let through.

    Raises:
        ValueError: the SHA-256 does not begin with the digits in the name.
    """
    if path.name not in IMAGENET_FILES.values():
        return
    expected = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"{path}: the SHA-256 begins with {found[:8]}, the published file's with {expected}. "
            f"Delete it and fetch {SOURCE}{path.name} again."
        )


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, read without running any code in it (`weights_only`).

    MedicalNet's form is understood: the state dict is under the key "state_dict", its names begin with "module.".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, is not the published file whose name it has, or holds anything but named tensors.
    """
    path = Path(path)
    check_sha256(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a file of tensors that torch.load(weights_only=True) reads: {reason}") from error
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: not a state dict, that is a mapping of names to tensors.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def load_encoder(encoder: ResNetEncoder, state: Mapping[str, Tensor], origin: str) -> None:
    """Copies a ResNet's weights into the encoder, fitted to its image channels and spatial dimensions.

    The keys of a classifier (`fc.`) and of MedicalNet's head (`conv_seg.`) are ignored.

    Args:
        encoder: changed in place.
        state: names and tensors, as torchvision has them; from a 2D or a 3D network.
        origin: what to call it in an error.
    Raises:
        ValueError: a key is missing or unexpected or a shape does not fit; the message names them.
    """
    own = encoder.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith(IGNORED)}
    missing = [name for name in own if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise ValueError(
            f"{origin}: not the weights of this encoder.{_listed('missing', missing)}"
            f"{_listed('unexpected', unexpected)}{_shortcut_advice(missing, unexpected)}"
        )
    fitted = {name: inflate(tensor, own[name].dim()) for name, tensor in state.items()}
    fitted["conv1.weight"] = fit_channels(fitted["conv1.weight"], own["conv1.weight"].shape[1])
    for name, tensor in fitted.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{origin}: {name} has shape {tuple(state[name].shape)}; this encoder has {tuple(own[name].shape)}."
            )
    encoder.load_state_dict({**own, **fitted})


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """First convolution for `channels` image channels, from one for m channels (3 for ImageNet, 1 for MedicalNet).

    One channel gets the sum of the m filters: a grey image has the response of its copy in m channels. More get the
    filters in turn, channel i filter i mod m, times m / channels, which keeps the size of the response.

    Args:
        weight: (out, m, *kernel).
    Returns:
        (out, channels, *kernel); `weight` itself where it has that many channels.
    """
    source = weight.shape[1]
    if channels == source:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    order = [channel % source for channel in range(channels)]
    return weight[:, order] * (source / channels)


def inflate(weight: Tensor, dims: int) -> Tensor:
    """Convolution weight for 3D from one for 2D: repeated along a new last axis and divided by its length.

    An image that is constant along the last axis then has the response that the 2D network has to one slice of it,
    away from the padding. Source: Carreira 2017, arXiv:1705.07750, section 2.4.

    Args:
        weight: (out, in, k, k); a tensor of any other number of axes is returned as it is.
        dims: number of axes wanted: 5 for a 3D convolution.
    Returns:
        (out, in, k, k, k) where `dims` is 5, else `weight`.
    """
    if weight.dim() != 4 or dims != 5:
        return weight
    length = weight.shape[-1]
    return weight.unsqueeze(-1).repeat(1, 1, 1, 1, length) / length


def _download(url: str, path: Path) -> None:
    """Fetches a file to `path`, which is written only when its SHA-256 is right."""
    expected = path.stem.rpartition("-")[2]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=sys.stderr.isatty())
    except (OSError, HTTPException) as error:
        raise OSError(
            f"could not download {url} ({error}). Fetch it on another machine and pass its path as `pretrained`, "
            "or pass pretrained=False to start from random weights."
        ) from error
    except RuntimeError as error:  # torch.hub's answer to a wrong hash
        raise ValueError(f"{url}: {error}. Try again, or pass the path of a good copy as `pretrained`.") from error


def _listed(what: str, names: list[str], limit: int = 5) -> str:
    """Up to `limit` of the names and how many more there are; nothing where there are none."""
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f" {what.capitalize()}: {', '.join(names[:limit])}{more}."


def _shortcut_advice(missing: list[str], unexpected: list[str]) -> str:
    """The remedy where the two differ in nothing but the kind of shortcut."""
    if missing and not unexpected and all(".downsample." in name for name in missing):
        return ' Its shortcuts have no weights: pass shortcut="A".'
    if unexpected and not missing and all(".downsample." in name for name in unexpected):
        return ' Its shortcuts have weights: pass shortcut="B".'
    return ""
