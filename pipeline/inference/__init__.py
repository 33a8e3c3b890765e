"""Volume + bundle -> logits -> labels, window by window.

`StreamingInferer`, for a bundle's config, is imported when it is asked for: it brings MONAI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .streaming import StreamingInferer

__all__ = ["StreamingInferer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from .streaming import StreamingInferer

        return StreamingInferer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
