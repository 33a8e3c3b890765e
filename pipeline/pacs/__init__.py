"""Between scanloom and a hospital: a DICOM node that labels what it is sent, and studies fetched by DICOMweb."""
