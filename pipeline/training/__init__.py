"""From a dataset folder to an MLflow run and trained weights."""
