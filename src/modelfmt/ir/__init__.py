"""The one intermediate representation: pure data, no I/O."""
