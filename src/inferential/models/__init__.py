"""The life of a model: loaded, warmed up, watched, given to robots version by version, and taken back."""
