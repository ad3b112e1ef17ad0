"""Models and adapters: loaded from wherever `model.path` leads, and saved as an artifact."""
