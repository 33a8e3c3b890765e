"""The check of a bundle: offline, every step that its trust allows, one line a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..bundle import Bundle
from ..progress import Report, silent
from .check_expressions import expression_findings
from .check_files import file_findings
from .check_ids import id_findings
from .check_labels import label_findings
from .check_metadata import metadata_findings
from .check_network import network_findings
from .check_references import reference_findings
from .check_running import STEPS, RunningSteps
from .check_targets import target_findings
from .check_weights import weights_findings
from .config_files import read_configs
from .configs import BundleConfig
from .finding import CheckReport, Finding, LeftOut

READING = 0.4
"""Share of the time that reading takes."""
Step = tuple[str, Callable[[], Iterable[Finding]]]


def check_bundle(bundle: Bundle, *, untrusted: str | None = None, report: Report = silent) -> CheckReport:
    """What is wrong with a bundle.

    Reading comes first, and runs nothing of the bundle. Then its network and its transforms are built and run, for
    which it has to be trusted.

    Args:
        bundle: to check; nothing of it is changed.
        untrusted: why it may not run; None where it may.
        report: told how far it is.
    """
    configs, unreadable = read_configs(bundle)
    reading: list[Step] = [
        ("files and digests", partial(file_findings, bundle)),
        ("metadata against the schema", partial(metadata_findings, bundle)),
        ("labels", partial(label_findings, bundle, configs)),
        ("configs", lambda: unreadable),
        ("ids that workflows require", partial(id_findings, configs)),
        ("references", partial(reference_findings, bundle, configs)),
        ("components", partial(target_findings, bundle, configs)),
        ("expressions", partial(expression_findings, bundle, configs)),
        ("network of the configs", partial(network_findings, bundle, configs)),
        ("weights", partial(weights_findings, bundle)),
    ]
    findings: list[Finding] = []
    done = _run(reading, findings, report, 0.0, READING)
    why = untrusted or _obstacle(configs, findings)
    if why is None:
        running = RunningSteps(bundle, configs)
        done += _run(running.steps(), findings, report, READING, 1.0)
        why = running.obstacle
    left_out = tuple(LeftOut(step, why) for step in STEPS if step not in done)
    name = f"{bundle.name} {bundle.metadata.get('version', '')}".strip()
    return CheckReport(name, tuple(findings), tuple(done), left_out)


def _run(steps: Sequence[Step], findings: list[Finding], report: Report, begin: float, end: float) -> list[str]:
    """Do the steps, add what they find, and return their names."""
    done: list[str] = []
    for name, step in steps:
        report(None, begin + (end - begin) * len(done) / len(steps))
        findings += step()
        done.append(name)
    return done


def _obstacle(configs: Sequence[BundleConfig], findings: Sequence[Finding]) -> str | None:
    """Why a bundle can not be run however it is trusted: its inference config does not hold together."""
    inference = next((config for config in configs if config.name == "inference"), None)
    if inference is None:
        return "there is no inference config that can be read"
    if any(finding.file == inference.file and finding.kind == "fault" for finding in findings):
        return f"{inference.file} has faults; mend them first"
    return None
