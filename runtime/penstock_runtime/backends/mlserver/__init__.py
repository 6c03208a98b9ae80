"""Models written for MLServer: a folder with `model-settings.json`."""
