"""Robots over Ray Serve: a POST for each observation, one replica with `@serve.batch`."""

from robots import main_over_http

if __name__ == "__main__":
    main_over_http("ray_serve_server.py", "/")
