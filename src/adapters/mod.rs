//! Adapters: their files, the registry of what was trained, and where they are swapped in.
