"""What works here: versions, devices, precision, optional parts, bundles, the tracking store."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec

from .bundle import shipped_bundles
from .outputs import package_versions

OPTIONAL = {
    "nilearn": "scanloom demo and the viewer of the pages; pip install 'scanloom[demo]'",
    "openvino": "predict --engine openvino; pip install 'scanloom[openvino]'",
    "onnxruntime": "predict --engine onnxruntime and bundle export --to onnx; pip install 'scanloom[onnx]'",
    "ray": "predict --cluster; pip install 'scanloom[cluster]'",
    "s3fs": "predict -o s3://…; pip install 'scanloom[s3]'",
    "pynetdicom": "listen; pip install 'scanloom[pacs]'",
    "dicomweb_client": "predict -i dicomweb://…; pip install 'scanloom[pacs]'",
}


def examine() -> dict[str, str]:
    """Names and values in words, in the order to print them."""
    import torch

    from .device import has_bf16
    from .training.store import tracking_uri

    facts = package_versions()
    facts["platform"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    facts["device"] = _device(torch)
    facts["bf16 on the CPU"] = "in hardware" if has_bf16(torch.device("cpu")) else "emulated: fp32 is used"
    for package, purpose in OPTIONAL.items():
        facts[package] = "installed" if find_spec(package) else f"missing (for {purpose})"
    facts["DICOM pixels"] = _undecodable()
    facts["bundles"] = ", ".join(shipped_bundles()) or "none"
    facts["tracking store"] = tracking_uri().split("@")[-1]
    return facts


def _undecodable() -> str:
    """Which compressed pixels of pydicom's transfer syntaxes no installed decoder reads."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import AllTransferSyntaxes

    missing = []
    for syntax in AllTransferSyntaxes:
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            continue  # video, which no decoder of pydicom reads
        if not decoder.is_available:
            missing.append(syntax.name)
    return f"no decoder for {', '.join(missing)}" if missing else "all still-image transfer syntaxes"


def _device(torch) -> str:  # type: ignore[no-untyped-def]
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu, {torch.get_num_threads()} threads (no GPU that torch can use)"
