"""What scheduling knows of time: deadlines, latency profiles, free replicas, and how much is asked of a model."""
