"""Dialogues by a chat template: ``dialogues`` says how they become ids, ``process`` and ``child`` render them."""

from rlhf_jax.data.chat.dialogues import Chat, Dialogue

__all__ = ["Chat", "Dialogue"]
