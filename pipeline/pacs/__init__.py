"""A DICOM node: it takes studies from whom it may, labels them and sends the results to a PACS."""
