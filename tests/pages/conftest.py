from pipeline.conftest import finished, project  # noqa: F401
