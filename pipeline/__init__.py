"""From a study to a volume, windows, labels and files; training, tracking and the command line.

Nothing is imported here, so that `import scanloom.pipeline` costs nothing: import the module that you need.
"""
