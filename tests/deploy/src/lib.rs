//! The chart, images and rules, checked with the tools that operators use.
