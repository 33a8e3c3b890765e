"""Addresses of studies: what they mean, what is refused, and that they tell no UID."""

import hashlib
import pickle
import subprocess
import sys

import pytest
from scanloom.pipeline.dicomweb import StudyAddress, is_dicomweb
from scanloom.pipeline.errors import UsageError

STUDY, SERIES = "1.2.840.99.1", "1.2.840.99.1.7"


def test_only_what_begins_with_a_scheme_of_dicomweb_is_an_address():
    assert is_dicomweb("dicomweb://host/studies/1.2") and is_dicomweb("DICOMweb+HTTP://host")
    assert not any(map(is_dicomweb, ("scan.nii.gz", "dicomweb", "https://host/studies/1.2", "dicomweb:/folder", "")))


def test_an_address_names_service_study_and_series():
    address = StudyAddress.parse(f"dicomweb://PACS.example:8443/a/dicom-web/studies/{STUDY}/series/{SERIES}/")
    assert address.service == "https://pacs.example:8443/a/dicom-web"
    assert (address.study_uid, address.series_uid) == (STUDY, SERIES)
    assert StudyAddress.parse(f"dicomweb://pacs/studies/{STUDY}").service == "https://pacs"


@pytest.mark.parametrize(
    ("text", "service", "secrets"),
    [
        ("dicomweb://pacs/rs", "https://pacs/rs", True),
        ("dicomweb://127.0.0.1:8042/rs", "http://127.0.0.1:8042/rs", True),
        ("dicomweb://127.3.2.1/rs", "http://127.3.2.1/rs", True),
        ("dicomweb://[::1]:8042/rs", "http://[::1]:8042/rs", True),
        ("dicomweb://localhost:8042/rs", "http://localhost:8042/rs", True),
        ("dicomweb://localhost.example/rs", "https://localhost.example/rs", True),
        ("dicomweb+https://localhost/rs", "https://localhost/rs", True),
        ("dicomweb+http://pacs/rs", "http://pacs/rs", False),
        ("dicomweb+http://10.0.0.7/rs", "http://10.0.0.7/rs", False),
        ("dicomweb+http://127.0.0.1/rs", "http://127.0.0.1/rs", True),
    ],
)
def test_plain_http_is_for_this_machine_or_by_word_and_then_carries_no_secret(text, service, secrets):
    address = StudyAddress.parse(f"{text}/studies/{STUDY}")
    assert (address.service, address.may_carry_secrets) == (service, secrets)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dicomweb://user:hunter2@pacs/studies/1.2", "user or password"),
        ("dicomweb://hunter2@pacs/studies/1.2", "user or password"),
        ("dicomweb://pacs/studies/1.2?token=hunter2", "query or a fragment"),
        ("dicomweb://pacs/studies/1.2#hunter2", "query or a fragment"),
        ("dicomweb://pacs/studies/1.2?", "query or a fragment"),
        ("dicomweb://pacs/studies", "ends in /studies/UID"),
        ("dicomweb://pacs/studies/", "ends in /studies/UID"),
        ("dicomweb://pacs/", "ends in /studies/UID"),
        ("dicomweb://pacs", "ends in /studies/UID"),
        ("dicomweb://pacs/studies/1.2/instances/1.3", "ends in /studies/UID"),
        ("dicomweb://pacs/../studies/1.2", "ends in /studies/UID"),
        ("dicomweb://pacs/studies/UID", "no valid UID"),
        ("dicomweb://pacs/studies/hunter2", "no valid UID"),
        ("dicomweb://pacs/studies/1.2/series/x", "no valid UID"),
        (f"dicomweb://pacs/studies/1.{'2' * 63}", "no valid UID"),
        ("dicomweb://pacs/studies/1..2", "no valid UID"),
        ("dicomweb:///studies/1.2", "valid host"),
        ("dicomweb://pacs:0/studies/1.2", "valid host"),
        ("dicomweb://pacs:70000/studies/1.2", "valid host"),
        ("dicomweb://pacs:hunter2/studies/1.2", "valid host"),
        ("dicomweb://[::1/studies/1.2", "valid host"),
        ("dicomweb://pa%63s/studies/1.2", "valid host"),
        ("dicomweb://pacs/a b/studies/1.2", "space"),
        ("dicomweb://pacs/\n/studies/1.2", "control"),
        ("dicomweb://evil\\@pacs/studies/1.2", "backslash"),
        ("https://pacs/studies/1.2", "does not begin"),
    ],
)
def test_a_malformed_address_is_refused_in_one_line_that_does_not_repeat_it(text, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        StudyAddress.parse(text)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value) and "1.2" not in str(caught.value)


def test_neither_its_string_nor_its_repr_tells_a_uid():
    address = StudyAddress.parse(f"dicomweb://pacs:8443/rs/studies/{STUDY}/series/{SERIES}")
    study, series = (hashlib.sha256(uid.encode()).hexdigest()[:8] for uid in (STUDY, SERIES))
    assert str(address) == repr(address) == f"pacs:8443/study-{study}/series-{series}"


def test_an_address_travels_to_a_worker():
    address = StudyAddress.parse(f"dicomweb://[::1]:8042/rs/studies/{STUDY}")
    assert pickle.loads(pickle.dumps(address)) == address == StudyAddress("http", "::1", 8042, "/rs", STUDY)


def test_asking_whether_an_input_is_an_address_imports_no_client():
    code = (
        "import sys; from scanloom.pipeline.dicomweb import is_dicomweb; "
        "print([name for name in ('requests', 'pydicom', 'dicomweb_client') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
