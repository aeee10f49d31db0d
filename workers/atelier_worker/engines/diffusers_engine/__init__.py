"""The engine that runs pipelines of diffusers: pictures and videos."""
