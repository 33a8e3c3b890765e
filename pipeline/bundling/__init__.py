"""Work on bundles as a whole: checking them, carrying them, showing what they would run."""
