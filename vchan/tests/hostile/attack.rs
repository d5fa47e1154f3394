//! What a hostile peer does: impossible indices, lies, live and notify bytes, data that changes,
//! events. Also for the scenarios on real Xen, which find `raw` beside it, as here.

use std::sync::atomic::Ordering;

use vchan::layout::{GRANTS, Ring};

use super::raw::RawPeer;

/// Numbers that look random and are the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, nth: u64) -> Random {
        let mut random = Random(seed.wrapping_add(nth << 32) | 1);
        // Seeds that are alike begin alike.
        for _ in 0..20 {
            random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What the hostile peer does once it is hostile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Everything at once.
    Anything,
    /// Only its own two indices.
    Indices,
    /// Its indices move as they may, and are lies: data that nobody wrote, space that is none.
    Lies,
    /// Live and notify bytes.
    Flags,
    /// Nothing but events.
    Storm,
    /// What a victim must not care about, and otherwise the protocol.
    Harmless,
    /// A peer of this library, which closes when it is done.
    Honest,
}

/// One blow of that style.
pub fn attack(raw: &mut RawPeer, style: Style, random: &mut Random) {
    let (written, read) = (Ring::written_by(raw.side), Ring::read_by(raw.side));
    match style {
        Style::Anything => {
            let style = random.pick(&[
                Style::Indices,
                Style::Lies,
                Style::Flags,
                Style::Storm,
                Style::Harmless,
            ]);
            match random.below(8) {
                // The victim's own indices, which it only ever writes.
                0 => {
                    let offset = random.pick(&[written.cons(), read.prod()]);
                    raw.store(offset, boundary(raw, random));
                }
                // Anything from the first byte to the last.
                1 => {
                    let at = random.below(4096);
                    let value = random.next().to_le_bytes()[0];
                    raw.control.store_byte(at, value, Ordering::Relaxed);
                }
                _ => attack(raw, style, random),
            }
        }
        Style::Indices => {
            let offset = random.pick(&[written.prod(), read.cons()]);
            raw.store(offset, boundary(raw, random));
        }
        Style::Lies => {
            let size = raw.bytes(written).2;
            let used = raw.prod.wrapping_sub(raw.load(written.cons())).min(size);
            let step = u32::try_from(random.below((size - used) as usize + 1)).unwrap();
            raw.prod = raw.prod.wrapping_add(step);
            raw.store(written.prod(), raw.prod);
            let size = raw.bytes(read).2;
            let there = raw.load(read.prod()).wrapping_sub(raw.cons).min(size);
            raw.cons = raw.cons.wrapping_add(there / 2);
            raw.store(read.cons(), raw.cons);
            // And the bytes change under the victim's hands.
            let (region, start, size) = raw.bytes(written);
            let at = start + random.below(size as usize - 8);
            region.copy_in(at, &random.next().to_le_bytes());
            let _ = raw.port.notify();
        }
        Style::Flags => {
            let offset = random.pick(&[20, 21, 22, 23]);
            let value = match random.below(3) {
                0 => random.next().to_le_bytes()[0],
                _ => random.pick(&[0, 1, 2, 3]),
            };
            raw.control.store_byte(offset, value, Ordering::Release);
        }
        Style::Storm => {
            let _ = raw.port.notify();
        }
        Style::Harmless | Style::Honest => match random.below(6) {
            0 => raw.control.copy_in(16, &random.next().to_le_bytes()[..4]),
            1 => {
                let at = GRANTS + random.below(1000 - 8);
                raw.control.copy_in(at, &random.next().to_le_bytes());
            }
            2 => raw.control.store_byte(
                raw.side.peer().live(),
                random.next().to_le_bytes()[0],
                Ordering::Relaxed,
            ),
            3 | 4 => {
                let offset = random.pick(&[22, 23]);
                let value = random.next().to_le_bytes()[0];
                raw.control.store_byte(offset, value, Ordering::Relaxed);
            }
            _ => {
                let _ = raw.port.notify();
            }
        },
    }
}

/// An index that a careless victim would fall over.
fn boundary(raw: &RawPeer, random: &mut Random) -> u32 {
    let near = random.pick(&[
        raw.prod,
        raw.cons,
        0,
        raw.load(0),
        raw.load(4),
        raw.load(12),
    ]);
    let size = raw.bytes(Ring::Left).2;
    let off = random.pick(&[0, 1, 2, size - 1, size, size + 1, 0x8000_0000, u32::MAX]);
    match random.below(4) {
        0 => near.wrapping_add(off),
        1 => near.wrapping_sub(off),
        2 => random.pick(&[0, 1, u32::MAX, 0x8000_0000, 0x7FFF_FFFF, 1024, 2048]),
        _ => u32::try_from(random.next() & 0xFFFF_FFFF).unwrap(),
    }
}
