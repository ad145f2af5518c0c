"""minispec: Neuron Specialization (Tan, Wu and Monz, EMNLP 2024) in a few small files of PyTorch."""


class UserError(Exception):
    """Something only the user can put right. The scripts print it as one line on stderr and exit with code 2."""
