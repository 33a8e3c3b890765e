"""What a million studies would take: measures a study and the driver here, and reckons machines, hours and money.

    python benchmarks/scale.py [--data ../shared/data] [--save measured.json]
    python benchmarks/scale.py --from measured.json

Measured are the seconds, CPU seconds and bytes of a small study (a T1 crop of the hippocampus, as DICOM or NIfTI) and
of a large one (the same scan enlarged to 256 x 256 x 160 voxels, as DICOM), of listing a cohort, of the driver's
tables, of a case that goes to an S3 server, and of looking whether a case is there. All else rests on the assumptions
below, which are printed with it. `docs/scale.md` explains the result.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from cohort import STAGES, write_cohort
from measure import machine, versions

STUDIES = 1_000_000
KEPT_BUSY = 0.85
"""Share of the processors' or the GPU's time that is put to use; `cohort.py` measures it for two cores."""
LEAST_GPU_SECONDS = 0.05
"""Of any study on a GPU, however small: copying, starting, the verdict."""
MONTH_PRICE, PUT_PRICE, GET_PRICE = 0.023, 5e-6, 4e-7
"""US dollars of an object store: for a GB and month, a request that writes or lists, one that reads."""


@dataclass(frozen=True)
class Machine:
    """A machine to hire. Prices are assumptions, of the order that large clouds ask; nothing here ran on a GPU.

    Attributes:
        name: what it is like.
        cores: virtual processors, each as fast as one of the measured machine.
        gpu: how many times as fast its GPU labels as two cores do; 0 where it has none.
        price: US dollars an hour, on demand.
        spot: share of that where the machine may be taken away at any moment.
    """

    name: str
    cores: int
    gpu: float
    price: float
    spot: float = 0.4


MACHINES = (
    Machine("16 cores", 16, 0, 0.70),
    Machine("8 cores, a GPU", 8, 30, 0.90),
    Machine("32 cores, a GPU", 32, 30, 2.00),
)


@dataclass(frozen=True)
class Plan:
    """What so many studies take on machines of a kind.

    Attributes:
        rate: studies a second of one machine.
        limit: what it waits for.
    """

    machine: Machine
    rate: float
    limit: str

    @property
    def hours(self) -> float:
        """Of one machine, for all studies."""
        return STUDIES / self.rate / 3600


def plan(study: dict[str, Any], hired: Machine) -> Plan:
    """How fast a machine is: its processors read and write, and label where there is no GPU."""
    cpu, gpu_seconds = study["cpu"]["read"] + study["cpu"]["write"], 0.0
    if hired.gpu:
        gpu_seconds = max(LEAST_GPU_SECONDS, study["cpu"]["label"] / 2 / hired.gpu)
        cpu += gpu_seconds  # a processor waits for the GPU all the while
    else:
        cpu += study["cpu"]["label"]
    seconds = {"processors": cpu / hired.cores, "GPU": gpu_seconds}
    limit = max(seconds, key=lambda name: seconds[name])
    return Plan(hired, KEPT_BUSY / seconds[limit], limit)


def show(found: dict[str, Any]) -> None:
    """Print what was measured, and what follows."""
    print(f"{found['machine']}\n{found['versions']}\n")
    _show_studies(found["studies"])
    _show_driver(found)
    for name, study in found["studies"].items():
        _show_plans(name, study, found["store"])


def _show_studies(studies: dict[str, dict[str, Any]]) -> None:
    print("| a study | read, s (CPU s) | label | write | MB in | MB out | files out | peak MiB |\n|---|" + 7 * "---|")
    for name, study in studies.items():
        stages = [f"{study['seconds'][stage]:.3g} ({study['cpu'][stage]:.3g})" for stage in STAGES]
        sizes = f"{study['bytes_in'] / 1e6:.3g} | {study['bytes_out'] / 1e6:.3g} | {study['files_out']:.0f}"
        print(f"| {name} | {' | '.join(stages)} | {sizes} | {study['peak_mib']:.0f} |")


def _show_driver(found: dict[str, Any]) -> None:
    print("\n| rows | summary.csv, s | MB | index.html, s | MB | results, MiB |\n|---|---|---|---|---|---|")
    for row in found["tables"]:
        print(f"| {row['rows']:,} | {row['summary_s']:.3g} | {row['summary_mb']:.3g} ", end="")
        print(f"| {row['index_s']:.3g} | {row['index_mb']:.3g} | {row['results_mib']:.0f} |")
    listed = {name: STUDIES / found["listed"] * seconds for name, seconds in found["listing"].items()}
    print(f"\nlisting {STUDIES:,}: {', '.join(f'{name} {seconds:.0f} s' for name, seconds in listed.items())}")
    print(f"cases a second through Ray where no stage does anything: {found['ray']:.0f}")
    store = found["store"]
    print(f"a case to S3: {_requests(store['put'])}, {store['put_s']:.3f} s here; ", end="")
    print(f"a look whether it is there: {_requests(store['look'])}, {store['look_s']:.3f} s here\n")


def _requests(kinds: dict[str, float]) -> str:
    return ", ".join(f"{count:g} {name}" for name, count in sorted(kinds.items()))


def _show_plans(name: str, study: dict[str, Any], store: dict[str, Any]) -> None:
    print(f"{STUDIES:,} of {name}; {KEPT_BUSY:.0%} put to use\n")
    print("| machine | studies an hour | waits for | machine hours | for a day | MB/s in, out | $ | $ spot |")
    print("|---|" + 7 * "---|")
    for hired in MACHINES:
        one = plan(study, hired)
        count = ceil(one.hours / 24)
        flow = [study[way] * one.rate * count / 1e6 for way in ("bytes_in", "bytes_out")]
        price = one.hours * hired.price
        print(
            f"| {hired.name}, $ {hired.price:.2f} | {3600 * one.rate:,.0f} | {one.limit} | {one.hours:,.0f} | {count} ",
            end="",
        )
        print(f"| {flow[0]:,.0f}, {flow[1]:,.0f} | {price:,.0f} | {price * hired.spot:,.0f} |")
    reads = sum(count for kind, count in store["put"].items() if kind.startswith(("get", "head")))
    writes = sum(store["put"].values()) - reads
    terabytes = study["bytes_out"] * STUDIES / 1e12
    print(f"\nresults {terabytes:.3g} TB, $ {terabytes * 1000 * MONTH_PRICE:,.0f} a month; ", end="")
    print(f"requests $ {STUDIES * (writes * PUT_PRICE + reads * GET_PRICE):,.0f}\n")


def measure_all(data: Path) -> dict[str, Any]:
    """Everything, in some minutes."""
    import scale_measured as measured

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        cohorts = {
            "small study": write_cohort(data, scratch / "small", 32),
            "large study": measured.write_large(data, scratch / "large", 2),
        }
        studies = {name: measured.measure_study(cohort, scratch / f"{name} out") for name, cohort in cohorts.items()}
        case = next((scratch / "small study out").glob("mr-*"))
        return {
            "machine": machine(),
            "versions": versions(["torch", "monai", "ray", "s3fs"]),
            "studies": studies,
            "listed": measured.LISTED,
            "listing": measured.measure_listing(scratch / "listing"),
            "tables": measured.measure_tables(scratch),
            "store": measured.measure_store(case),
            "ray": measured.measure_ray(),
        }


def main() -> None:
    """Measure, or take what was measured; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--save", type=Path, help="write what was measured to this file")
    parser.add_argument("--from", dest="measured", type=Path, help="take what was measured from this file")
    options = parser.parse_args()
    found = json.loads(options.measured.read_text()) if options.measured else measure_all(options.data)
    if options.save:
        options.save.write_text(json.dumps(found, indent=1))
    show(found)


if __name__ == "__main__":
    main()
