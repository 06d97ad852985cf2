"""From text to NumPy batches: the embedded world, readers of users' files, tokenizers, packing and loaders."""
