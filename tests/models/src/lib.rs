//! Exhaustive models of protocols between processes; see `tests/`.
