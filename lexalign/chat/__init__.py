"""Hold a conversation with a model on the terminal.

- `conversation`: input lines, commands and output, without torch;
- `model_speaker`: a model that answers, token by token;
- `vllm`: the command that serves it with vLLM.
"""
