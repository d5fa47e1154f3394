//! Things by their numbers.

use alloc::vec::Vec;

/// What has a number, in the order of the numbers.
///
/// It is for what is numbered as it comes and is soon gone: most of the time a new number is the
/// greatest, and the list short. A tree would be ten times as much code, which counts in a guest that
/// is nothing but one program.
#[derive(Debug)]
pub(super) struct Numbered<T>(Vec<(u64, T)>);

impl<T> Numbered<T> {
    pub(super) const fn new() -> Numbered<T> {
        Numbered(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |(number, _)| *number)
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.find(number).is_ok()
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let at = self.find(number).ok()?;
        self.0.get(at).map(|(_, thing)| thing)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let at = self.find(number).ok()?;
        self.0.get_mut(at).map(|(_, thing)| thing)
    }

    /// Adds a thing, in the place of the one that has this number.
    pub(super) fn insert(&mut self, number: u64, thing: T) {
        match self.find(number) {
            Ok(at) => {
                if let Some(place) = self.0.get_mut(at) {
                    place.1 = thing;
                }
            }
            // Not behind the end: the search has found that place.
            Err(at) => self.0.insert(at, (number, thing)),
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let at = self.find(number).ok()?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, thing)| thing)
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_found_by_their_numbers_in_whatever_order_they_come() {
        let mut things = Numbered::default();
        for number in [3, 1, u64::MAX, 2, 0] {
            things.insert(number, number.to_string());
        }
        assert_eq!(things.len(), 5);
        things.insert(2, "two".into());
        assert_eq!(things.len(), 5);
        assert_eq!(things.get(2).unwrap(), "two");
        assert_eq!(things.get(u64::MAX).unwrap(), "18446744073709551615");
        things.get_mut(3).unwrap().push('!');
        assert_eq!(things.remove(3).unwrap(), "3!");
        assert!(!things.contains(3) && things.remove(3).is_none() && things.get(4).is_none());
        let left: Vec<_> = things.values_mut().map(|thing| thing.clone()).collect();
        assert_eq!(left, ["0", "1", "two", "18446744073709551615"]);
    }
}
