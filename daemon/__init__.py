"""The service: which file, when, and where the result goes.  It knows nothing of prompts or tokens."""
