//! Arithmetic of free-running indices, for any width, so that a narrow one can be tried whole.

use crate::guard::keeps;

/// An unsigned index that wraps.
pub(super) trait Width: Copy + PartialOrd {
    /// `self + more`, wrapping.
    fn plus(self, more: Self) -> Self;
    /// `self - less`, wrapping.
    fn minus(self, less: Self) -> Self;
}

impl Width for u32 {
    #[inline]
    fn plus(self, more: u32) -> u32 {
        self.wrapping_add(more)
    }

    #[inline]
    fn minus(self, less: u32) -> u32 {
        self.wrapping_sub(less)
    }
}

/// A ring's two indices as one end knows them. Always `prod − cons ≤ size`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Indices<W> {
    prod: W,
    cons: W,
    size: W,
}

impl<W: Width> Indices<W> {
    /// Indices as they were found; `None` when more bytes would be in the ring than fit.
    pub(super) fn new(prod: W, cons: W, size: W) -> Option<Indices<W>> {
        let legal = prod.minus(cons) <= size || !keeps("validate-at-start");
        legal.then_some(Indices { prod, cons, size })
    }

    #[inline]
    pub(super) fn prod(self) -> W {
        self.prod
    }

    #[inline]
    pub(super) fn cons(self) -> W {
        self.cons
    }

    /// How many bytes are in the ring.
    #[inline]
    pub(super) fn used(self) -> W {
        self.prod.minus(self.cons)
    }

    /// How many bytes fit.
    #[inline]
    pub(super) fn free(self) -> W {
        self.size.minus(self.used())
    }

    /// After `len` bytes were written; at most [`free`](Indices::free).
    #[inline]
    pub(super) fn written(&mut self, len: W) {
        self.prod = self.prod.plus(len);
    }

    /// After `len` bytes were read; at most [`used`](Indices::used).
    #[inline]
    pub(super) fn read(&mut self, len: W) {
        self.cons = self.cons.plus(len);
    }

    /// Takes over the producer's index as it stands in the page now; `false` when it cannot be: it
    /// went back, or claims more bytes than fit.
    #[inline]
    #[must_use]
    pub(super) fn accept_prod(&mut self, found: W) -> bool {
        let step = found.minus(self.prod);
        let legal = step <= self.free() || !keeps("validate-prod");
        if legal {
            self.prod = found;
        }
        legal
    }

    /// The same for who needs `wanted` bytes, which are more than are known to be there: `false` also
    /// when they are not there now. Nothing is taken over then.
    ///
    /// More than [`used`](Indices::used) cannot have gone back, so that need not be looked at.
    #[inline]
    #[must_use]
    pub(super) fn accept_prod_for(&mut self, wanted: W, found: W) -> bool {
        let used = found.minus(self.cons);
        let good = wanted <= used && (used <= self.size || !keeps("validate-prod"));
        if good {
            self.prod = found;
        }
        good
    }

    /// Takes over the consumer's index as it stands in the page now; `false` when it cannot be: it
    /// went back, or claims to have read more bytes than there were.
    #[inline]
    #[must_use]
    pub(super) fn accept_cons(&mut self, found: W) -> bool {
        let step = found.minus(self.cons);
        let legal = step <= self.used() || !keeps("validate-cons");
        if legal {
            self.cons = found;
        }
        legal
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "numbers of the tests themselves"
)]
mod tests {
    use super::*;

    impl Width for u8 {
        fn plus(self, more: u8) -> u8 {
            self.wrapping_add(more)
        }

        fn minus(self, less: u8) -> u8 {
            self.wrapping_sub(less)
        }
    }

    /// The obvious reference: indices that never wrap, as the number of bytes ever written and
    /// read, of which only the lowest eight bits are seen.
    fn fill_of(prod: u8, cons: u8) -> i32 {
        (i32::from(prod) - i32::from(cons)).rem_euclid(256)
    }

    #[test]
    fn every_pair_of_narrow_indices_with_every_size_counts_as_the_reference_does() {
        for size in [1u8, 2, 4, 8, 16, 32, 64, 128] {
            for prod in 0..=255u8 {
                for cons in 0..=255u8 {
                    let fill = fill_of(prod, cons);
                    let indices = Indices::new(prod, cons, size);
                    assert_eq!(
                        indices.is_some(),
                        fill <= i32::from(size),
                        "{prod} {cons} {size}"
                    );
                    let Some(indices) = indices else { continue };
                    assert_eq!(i32::from(indices.used()), fill);
                    assert_eq!(i32::from(indices.free()), i32::from(size) - fill);
                }
            }
        }
    }

    #[test]
    fn every_narrow_index_that_a_peer_can_write_is_judged_as_the_reference_does() {
        for size in [1u8, 2, 4, 8, 16, 32, 64, 128] {
            for cons in 0..=255u8 {
                for fill in 0..=size {
                    let indices = Indices::new(cons.wrapping_add(fill), cons, size).unwrap();
                    for found in 0..=255u8 {
                        let written = fill_of(found, indices.prod());
                        let legal = written <= i32::from(size - fill);
                        let mut after = indices;
                        assert_eq!(after.accept_prod(found), legal, "{indices:?} {found}");
                        let more = if legal { written } else { 0 };
                        assert_eq!(i32::from(after.used()), i32::from(fill) + more);
                        let there = i32::from(fill) + more;
                        for wanted in [fill + 1, after.used(), after.used() + 1, 255] {
                            let mut after = indices;
                            if wanted > fill {
                                let suffices = legal && i32::from(wanted) <= there;
                                assert_eq!(after.accept_prod_for(wanted, found), suffices);
                                let now = if suffices { there } else { fill.into() };
                                assert_eq!(i32::from(after.used()), now);
                            }
                        }
                        let read = fill_of(found, indices.cons());
                        let legal = read <= i32::from(fill);
                        let mut after = indices;
                        assert_eq!(after.accept_cons(found), legal, "{indices:?} {found}");
                        let less = if legal { read } else { 0 };
                        assert_eq!(i32::from(after.used()), i32::from(fill) - less);
                    }
                }
            }
        }
    }

    proptest::proptest! {
        /// Wide indices, among them those that wrap, against counters of 64 bits that do not.
        #[test]
        fn wide_indices_count_as_counters_that_never_wrap(
            start in proptest::prelude::any::<u32>(),
            order in 10u32..=20,
            steps in proptest::collection::vec((0u32..=1 << 20, 0u32..=1 << 20), 1..40),
        ) {
            let size = 1u32 << order;
            let mut indices = Indices::new(start, start, size).unwrap();
            let (mut written, mut read) = (u64::from(start), u64::from(start));
            for (write, take) in steps {
                let write = write.min(indices.free());
                indices.written(write);
                written += u64::from(write);
                proptest::prop_assert_eq!(u64::from(indices.used()), written - read);
                let take = take.min(indices.used());
                indices.read(take);
                read += u64::from(take);
                proptest::prop_assert_eq!(u64::from(indices.free()), u64::from(size) - (written - read));
                proptest::prop_assert_eq!(u64::from(indices.prod()), written & 0xFFFF_FFFF);
                proptest::prop_assert_eq!(u64::from(indices.cons()), read & 0xFFFF_FFFF);
            }
        }
    }
}
