"""One run in its folder: execute it, run its parents first, resume it, reproduce it, start its processes."""
