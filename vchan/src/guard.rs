//! Guards that can be taken out one by one, to see that a test misses them.
//!
//! `cargo xtask mutations` builds the crate with `--cfg vchan_mutations` and runs, for each guard
//! of its list, a test that must fail without it. In every other build [`keeps`] is `true`, and the
//! compiler removes the question.

/// Whether the guard with this name is in its place.
#[cfg(not(vchan_mutations))]
#[inline(always)]
pub(crate) const fn keeps(_guard: &str) -> bool {
    true
}

/// Whether the guard with this name is in its place: all are, but those that the environment variable
/// `VCHAN_MUTATION` names, with `+` between them.
#[cfg(vchan_mutations)]
pub(crate) fn keeps(guard: &str) -> bool {
    static TAKEN_OUT: std::sync::OnceLock<std::string::String> = std::sync::OnceLock::new();
    TAKEN_OUT
        .get_or_init(|| std::env::var("VCHAN_MUTATION").unwrap_or_default())
        .split('+')
        .all(|taken_out| taken_out != guard)
}
