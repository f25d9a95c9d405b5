"""Robots over LitServe: a POST for each observation, one worker, its batching."""

from robots import main_over_http

if __name__ == "__main__":
    main_over_http("litserve_server.py", "/predict")
