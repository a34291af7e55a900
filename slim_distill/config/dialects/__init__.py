"""Configuration files of other systems, translated into `RunConfig`."""
