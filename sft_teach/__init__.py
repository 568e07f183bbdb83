"""Helper package of the course "Supervised fine-tuning of language models"."""

__version__ = "0.1.0"
