//! A peer's fault, set once and seen by both directions.

use core::sync::atomic::Ordering;

use crate::guard::keeps;
use crate::sync::{AtomicU8, AtomicU32};
use crate::{Error, PeerFault};

const NONE: u8 = 0;
const BEING_SET: u8 = 1;
const INDEX: u8 = 2;
const LIVE: u8 = 3;

/// Holds the first fault that is set; later ones are dropped.
#[derive(Debug, Default)]
pub(super) struct FaultCell {
    kind: AtomicU8,
    found: AtomicU32,
    own: AtomicU32,
    size: AtomicU32,
}

impl FaultCell {
    /// Sets the fault; false when there is one already.
    pub(super) fn set(&self, fault: PeerFault) -> bool {
        let first =
            self.kind
                .compare_exchange(NONE, BEING_SET, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err() {
            return false;
        }
        let kind = match fault {
            PeerFault::Index { found, own, size } => {
                self.found.store(found, Ordering::Relaxed);
                self.own.store(own, Ordering::Relaxed);
                self.size.store(size, Ordering::Relaxed);
                INDEX
            }
            PeerFault::Live(byte) => {
                self.found.store(u32::from(byte), Ordering::Relaxed);
                LIVE
            }
        };
        // Pairs with the acquire load of `check`: who sees the kind sees the values.
        self.kind.store(kind, Ordering::Release);
        true
    }

    /// The fault, as an error, once there is one.
    pub(super) fn check(&self) -> Result<(), Error> {
        let fault = match self.kind.load(Ordering::Acquire) {
            _ if !keeps("fault-is-final") => return Ok(()),
            INDEX => PeerFault::Index {
                found: self.found.load(Ordering::Relaxed),
                own: self.own.load(Ordering::Relaxed),
                size: self.size.load(Ordering::Relaxed),
            },
            LIVE => PeerFault::Live(self.found.load(Ordering::Relaxed).to_le_bytes()[0]),
            _ => return Ok(()),
        };
        Err(Error::PeerFault(fault))
    }
}
