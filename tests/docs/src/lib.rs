//! Configuration reference and table of metrics, made from the programs.
