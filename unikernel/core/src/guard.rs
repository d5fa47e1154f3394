//! Guards that can be taken out one by one, to see that a test misses them; as in `vchan`.

/// Whether the guard with this name is in its place.
#[cfg(not(vchan_mutations))]
#[inline(always)]
pub(crate) const fn keeps(_guard: &str) -> bool {
    true
}

/// Whether the guard with this name is in its place: all are, but the one that the environment
/// variable `VCHAN_MUTATION` names.
#[cfg(vchan_mutations)]
pub(crate) fn keeps(guard: &str) -> bool {
    extern crate std;
    std::env::var("VCHAN_MUTATION").as_deref() != Ok(guard)
}
