"""Dockerfile and compose.yaml: not built here, but every option in them is one that the command has, and runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ports import free_ports
from scanloom.pipeline import cli

REPOSITORY = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
SERVICES = COMPOSE["services"]
LISTEN = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in SERVICES["scanloom"]["command"]]
"""The node's words with the defaults of their variables."""
HEALTHY, RUN = map(json.loads, re.findall(r"^(?:HEALTHCHECK .*?)?CMD (\[.*\])", DOCKERFILE, re.M))
"""The words of the Dockerfile's health check, and of its command."""


def options_of(words: list[str]) -> dict[str, Any]:
    """What `scanloom` makes of a command's words; fails where it knows an option, or a value, not."""
    command = typer.main.get_command(cli.app).commands[words[0]]  # type: ignore[attr-defined]
    return command.make_context(words[0], words[1:]).params


def commands_of_page() -> list[list[str]]:
    """The words of every `scanloom` command that docs/pacs.md shows as a block."""
    page = (REPOSITORY / "docs" / "pacs.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^ {4,}(scanloom .*)", page, re.M)]


def orthanc_config() -> dict[str, Any]:
    text = SERVICES["orthanc"]["environment"]["ORTHANC_JSON"]
    return json.loads(re.sub(r"\$\{\w+:\?[^}]*\}", "password", text))


def port_of(service: str, inside: int) -> str:
    """Address and port on the host under which a port of a service is published."""
    found = [each for each in SERVICES[service]["ports"] if each.rpartition(":")[2] == str(inside)]
    assert len(found) == 1
    return found[0].rpartition(":")[0]


@pytest.mark.parametrize("words", [LISTEN, RUN], ids=["compose", "Dockerfile"])
def test_the_node_starts_with_options_that_it_has(words):
    options = options_of(words)
    assert options["folder"].is_relative_to("/data") and options["host"] == "0.0.0.0"
    assert options["aet"] == "SCANLOOM" and "HEALTH@127.0.0.1" in options["allow"]


def test_the_check_of_options_notices_one_that_is_not():
    with pytest.raises(Exception, match="No such option: --no-such-option"):
        options_of([*LISTEN, "--no-such-option=1"])


@pytest.mark.parametrize("words", commands_of_page(), ids=" ".join)
def test_the_pages_commands_have_options_that_there_are(words):
    assert options_of(words)


def test_the_page_tells_of_every_option_of_listen_and_of_no_other():
    page = (REPOSITORY / "docs" / "pacs.md").read_text(encoding="utf-8")
    command = typer.main.get_command(cli.app).commands["listen"]  # type: ignore[attr-defined]
    names = [{*option.opts, *option.secondary_opts} for option in command.params]
    table = page.partition("| option | default | |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`(-[-a-z]+)", table))
    assert told and told <= set().union(*names)
    assert [each for each in names if not each & {*told, "--trust-bundle"}] == []


def test_the_pages_node_and_orthanc_agree():
    page = (REPOSITORY / "docs" / "pacs.md").read_text(encoding="utf-8")
    orthanc = json.loads(re.findall(r"```json\n(.*?)```", page, re.S)[0])
    options = next(options_of(words) for words in commands_of_page() if words[0] == "listen")
    assert orthanc["DicomModalities"] == {"scanloom": [options["aet"], options["host"], options["port"]]}
    assert options["allow"] == [orthanc["DicomAet"]]
    assert options["forward"] == [f"{orthanc['DicomAet']}@127.0.0.1:{orthanc['DicomPort']}"]
    assert f"storescu 127.0.0.1 {orthanc['DicomPort']} demo/study/right -aec {orthanc['DicomAet']}" in page


def test_node_and_orthanc_agree_about_names_ports_and_addresses():
    options, orthanc = options_of(LISTEN), orthanc_config()
    assert orthanc["DicomModalities"] == {"scanloom": [options["aet"], "scanloom", options["port"]]}
    assert options["forward"] == [f"{orthanc['DicomAet']}@orthanc:{orthanc['DicomPort']}"]
    address = SERVICES["orthanc"]["networks"]["pacs"]["ipv4_address"]
    assert f"{orthanc['DicomAet']}@{address}" in options["allow"]
    assert port_of("orthanc", orthanc["HttpPort"]) and port_of("orthanc", orthanc["DicomPort"])
    assert port_of("scanloom", options["port"]) and port_of("scanloom", options["metrics"])
    exposed = re.findall(r"^EXPOSE (.*)", DOCKERFILE, re.M)[0].split()
    assert exposed == [str(options["port"]), str(options["metrics"])]


def test_the_health_check_calls_the_node_as_it_listens():
    options = options_of(RUN)
    assert HEALTHY[3:5] == ["echoscu", "127.0.0.1"] and HEALTHY[5] == str(options["port"])
    assert f"{HEALTHY[HEALTHY.index('-aet') + 1]}@127.0.0.1" in options["allow"]
    assert HEALTHY[HEALTHY.index("-aec") + 1] == options["aet"]


def test_nothing_is_published_beyond_loopback_and_nothing_runs_as_root():
    published = [port for service in SERVICES.values() for port in service["ports"]]
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    assert re.findall(r"^USER (\d+)", DOCKERFILE, re.M)[-1] != "0"
    for name in ("scanloom", "mlflow"):
        service = SERVICES[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["restart"] == "unless-stopped"


def test_no_secret_is_written_down_and_orthanc_does_not_start_without_one():
    users = re.search(r'"RegisteredUsers": (\{.*\})', SERVICES["orthanc"]["environment"]["ORTHANC_JSON"])
    assert users and re.fullmatch(r'\{"orthanc": "\$\{ORTHANC_PASSWORD:\?.*\}"\}', users[1])
    assert orthanc_config()["AuthenticationEnabled"] is True
    assert not re.search(r"password|token|secret", DOCKERFILE, re.I)


def test_every_volume_and_network_that_is_used_is_there():
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert used == set(COMPOSE["volumes"])
    assert {name for service in SERVICES.values() for name in service["networks"]} == set(COMPOSE["networks"])
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)


def test_the_images_of_others_are_of_one_version():
    assert re.fullmatch(r"orthancteam/orthanc:\d+\.\d+\.\d+", SERVICES["orthanc"]["image"])
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) == {"python:3.11-slim"}
    version = re.findall(r"^version = (.*)", (REPOSITORY / "setup.cfg").read_text(), re.M)[0]
    assert SERVICES["scanloom"]["image"] == SERVICES["mlflow"]["image"] == f"scanloom:{version}"


def test_what_the_dockerfile_copies_is_there_and_gets_to_the_builder():
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--)(.*)", DOCKERFILE, re.M)]
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for name in (each for words in copied for each in words):
        assert (REPOSITORY / name).exists() and f"!{name}" in ignored


def wait_for(process: subprocess.Popen, answer) -> None:
    """Until the answer is true; a process that has ended is no use waiting for."""
    end = time.monotonic() + 240
    while not answer():
        assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
        time.sleep(0.1)


@pytest.mark.slow
def test_the_dockerfiles_command_listens_and_its_health_check_sees_it(tmp_path):
    port, metrics = free_ports(2)
    moved = {"11112": str(port), "9100": str(metrics), "0.0.0.0": "127.0.0.1", "/data/node": str(tmp_path / "node")}
    words = [moved.get(word, word) for word in RUN]
    health = [sys.executable, *(moved.get(word, word) for word in HEALTHY[1:])]

    def is_healthy() -> bool:
        return subprocess.run(health, capture_output=True, timeout=240).returncode == 0

    assert not is_healthy()
    process = subprocess.Popen(
        [sys.executable, "-m", "scanloom.pipeline.cli", *words], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(process, is_healthy)
        stranger = [word if word != "HEALTH" else "STRANGER" for word in health]
        assert subprocess.run(stranger, capture_output=True, timeout=240).returncode != 0
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            assert b"scanloom_" in answer.read()
        process.terminate()
        assert process.wait(240) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_mlflow_of_compose_serves_the_node_by_its_name_there(tmp_path):
    (port,) = free_ports(1)
    moved = {"/data": str(tmp_path), ":5000": f":{port}", "=5000": f"={port}", "0.0.0.0": "127.0.0.1"}
    words = SERVICES["mlflow"]["command"]
    for old, new in moved.items():
        words = [word.replace(old, new) for word in words]
    program = [sys.executable, "-m", "mlflow", *words]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"Host": f"mlflow:{port}"})

    def answers() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_for(process, answers)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
