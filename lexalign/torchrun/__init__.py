"""Both ends of torchrun: whether a run takes several processes and what is done before there are any, their start, and each of them."""
