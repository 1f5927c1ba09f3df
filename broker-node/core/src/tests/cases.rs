//! Single cases of the whole core.
