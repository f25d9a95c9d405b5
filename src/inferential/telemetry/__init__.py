"""Exports a running server's state to monitoring: text for Prometheus, traces and metrics for OpenTelemetry.

The server decides what is recorded and when; `web` has pages and health.
"""
