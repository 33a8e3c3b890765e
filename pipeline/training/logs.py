"""Where the words of a training's libraries go: train.log, never the screen."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("scanloom.training")


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Everything that libraries log or warn of goes into a file, and the trace of what ends the block."""
    import mlflow  # noqa: F401  (gives its loggers handlers of their own at its first import, as MONAI does)
    from monai.bundle import ConfigWorkflow  # noqa: F401

    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    loud = _take_from_screen()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            logging.captureWarnings(True)
            yield
    except Exception:
        log.exception("the training stopped")
        raise
    except KeyboardInterrupt:
        log.info("the training was interrupted")
        raise
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagates in loud:
            logger.handlers, logger.propagate = handlers, propagates
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def _take_from_screen() -> list[tuple[logging.Logger, list[logging.Handler], bool]]:
    """Loggers that write to the screen themselves, made to pass on to the root; returns how they were."""
    changed = []
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and any(_on_screen(handler) for handler in logger.handlers):
            changed.append((logger, logger.handlers, logger.propagate))
            logger.handlers = [handler for handler in logger.handlers if not _on_screen(handler)]
            logger.propagate = True
    return changed


def _on_screen(handler: logging.Handler) -> bool:
    if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):
        return False
    stream = handler.stream
    return stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) or "mlflow" in type(stream).__module__
