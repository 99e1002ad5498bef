"""Folder conventions around the containers: which files make a checkpoint, and what each of them means."""
