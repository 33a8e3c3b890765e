"""From a volume and a bundle to labels on the volume's own grid."""
