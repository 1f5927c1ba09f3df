//! Pages of listings.

/// Items of a page, if the request names no limit.
pub const LIMIT_DEFAULT: u32 = 100;
/// The largest limit that is allowed; more is refused with 400.
pub const LIMIT_MAX: u32 = 1000;
