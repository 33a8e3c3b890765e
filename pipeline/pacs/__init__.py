"""Between scanloom and a hospital: a DICOM node that labels what it is sent, and studies fetched from a PACS by DICOMweb."""
