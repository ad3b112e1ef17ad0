"""A conversation with a model on the terminal.

- `session`: what is typed and what is printed, without torch;
- `speaker`: a model that answers, token by token;
- `serving`: the command that would serve it with vLLM.
"""
