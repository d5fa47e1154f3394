//! The bytes that both sides of a test know: what `tests/c/driver.c` writes, and its checksum.

/// The pseudo-random bytes of the C driver's outgoing direction: splitmix64, eight bytes a step,
/// low byte first.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    /// The bytes from a seed on; the driver begins with seed 1.
    #[must_use]
    pub fn from_seed(seed: u64) -> Pattern {
        Pattern {
            state: seed,
            word: [0; 8],
            used: 8,
        }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.by_ref().take(count).collect()
    }
}

impl Iterator for Pattern {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.used == self.word.len() {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.word = (mixed ^ (mixed >> 31)).to_le_bytes();
            self.used = 0;
        }
        self.used += 1;
        self.word.get(self.used - 1).copied()
    }
}

/// FNV-1a, 64 bits, as the driver prints it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_does_not_depend_on_how_it_is_cut() {
        let mut pieces = Pattern::from_seed(1);
        let cut: Vec<u8> = [1, 7, 8, 3].iter().flat_map(|&n| pieces.bytes(n)).collect();
        assert_eq!(cut, Pattern::from_seed(1).bytes(19));
        assert_ne!(cut, Pattern::from_seed(2).bytes(19));
    }

    #[test]
    fn checksums_are_fnv_1a() {
        // From the reference test vectors of FNV-1a.
        assert_eq!(checksum(b""), "cbf29ce484222325");
        assert_eq!(checksum(b"foobar"), "85944171f73967e8");
    }
}
