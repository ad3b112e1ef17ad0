"""Models and adapters: loaded from `model.path`, and saved as an artifact."""
