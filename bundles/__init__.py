"""MONAI bundles that ship with scanloom: configs, weights and model cards, one folder a bundle; no code."""
