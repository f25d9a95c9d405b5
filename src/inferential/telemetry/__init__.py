"""What leaves a running server for other people's monitoring: Prometheus' text, OpenTelemetry's traces and metrics.

What is recorded, and when, is the server's business; pages and health are `web`'s.
"""
