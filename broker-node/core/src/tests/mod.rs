//! Tests of the whole core: a model of everything around it, and single cases.

mod cases;
mod client;
mod model;
mod world;
