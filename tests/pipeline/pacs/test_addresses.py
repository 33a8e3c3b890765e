"""AET, AET@HOST and AET@HOST:PORT as people write them, and who is let in."""

from __future__ import annotations

import pytest
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.pacs.addresses import (
    Destination,
    address_of,
    check_aet,
    parse_destination,
    plain_address,
    resolve,
)
from scanloom.pipeline.pacs.allowed import parse_allow_list


@pytest.mark.parametrize("title", ["A", "PACS_1", "SIXTEEN_LETTERS_", "with space", " padded "])
def test_titles_of_the_standard_are_taken_without_the_spaces_around_them(title: str) -> None:
    assert check_aet(title, "--aet") == title.strip()


@pytest.mark.parametrize("title", ["", "   ", "SEVENTEEN_LETTERS", "back\\slash", "tab\tin", "new\nline", "É", "\0"])
def test_other_titles_are_refused(title: str) -> None:
    with pytest.raises(UsageError, match=r"--aet .* is no AE title"):
        check_aet(title, "--aet")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PACS@pacs.local:104", Destination("PACS", "pacs.local", 104)),
        ("P@CS@10.0.0.1:11112", Destination("P@CS", "10.0.0.1", 11112)),
        ("PACS@[fe80::1]:104", Destination("PACS", "fe80::1", 104)),
    ],
)
def test_a_destination_is_read_and_written_in_the_same_way(text: str, found: Destination) -> None:
    assert parse_destination(text) == found
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PACS",
        "PACS@host",
        "PACS@host:",
        "PACS@:104",
        "host:104",
        "PACS@host:0",
        "PACS@host:65536",
        "PACS@host:x",
        "PACS@fe80::1:104",
        "@host:104",
        "PACS@host:\u0661",
        "PACS@host: 104",
    ],
)
def test_a_malformed_destination_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--forward"):
        parse_destination(text)


def test_an_unknown_host_is_refused_where_a_name_must_be_known() -> None:
    with pytest.raises(UsageError, match=r"host 'no\.such\.host\.invalid' is not known"):
        resolve("no.such.host.invalid", "--host")


def test_a_name_stands_for_an_address_of_ipv4_where_it_has_one() -> None:
    assert address_of("localhost", "--host") == "127.0.0.1"
    assert address_of("::1", "--host") == "::1"


def test_an_ipv4_address_that_came_mapped_into_ipv6_is_itself() -> None:
    assert plain_address("::ffff:10.0.0.1") == plain_address("10.0.0.1")
    assert plain_address("fe80::1%eth0") == plain_address("fe80::1")


def test_on_loopback_everybody_is_let_in_unless_a_list_says_otherwise() -> None:
    assert parse_allow_list([], "127.0.0.1").permits("ANY", "127.0.0.1")
    assert not parse_allow_list(["CT1"], "127.0.0.1").permits("ANY", "127.0.0.1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_port_that_others_reach_needs_a_list(host: str) -> None:
    with pytest.raises(UsageError, match="say who may send with --allow-aet"):
        parse_allow_list([], host)
    assert parse_allow_list(["CT1"], host).titles == ["CT1"]


def test_a_title_that_is_pinned_to_an_address_is_let_in_from_there_alone() -> None:
    allowed = parse_allow_list(["CT1@10.0.0.1", "CT1@10.0.0.2", "CT2"], "0.0.0.0")
    assert allowed.permits("CT1", "10.0.0.1")
    assert allowed.permits("CT1", "::ffff:10.0.0.2")
    assert not allowed.permits("CT1", "10.0.0.3")
    assert not allowed.permits("ct1", "10.0.0.1")
    assert allowed.permits("CT2", "10.0.0.3")
    assert allowed.titles == ["CT1", "CT2"]


def test_a_name_of_a_host_is_looked_up() -> None:
    assert parse_allow_list(["CT1@localhost"], "0.0.0.0").permits("CT1", "127.0.0.1")


@pytest.mark.parametrize("text", ["", "CT1@", "@host", "SEVENTEEN_LETTERS@10.0.0.1", "CT1@no.such.host.invalid"])
def test_a_malformed_permission_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--allow-aet"):
        parse_allow_list([text], "127.0.0.1")
