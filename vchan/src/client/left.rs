//! A page on offer that another client has used and left.
//!
//! It is still on offer in two cases. Its server has not noticed yet, and would take what we write for
//! that client's. Or its server goes on with the same rings for one client after the other, as those of
//! libxenvchan may. So it is taken over when the server has read all that was written there, has had
//! time to take its keys back, and has not.

use super::RETRY_INTERVAL;
use crate::host::Time;
use crate::keys::Published;
use crate::layout::{Live, Ring, Side};
use crate::memory::PAGE_SIZE;

/// How often it is found so, at intervals, before it is taken over. They are counted, and time is not, as
/// the machine may stop.
const LOOKS: u32 = 4;

/// Whether no client has come to a page yet, by a copy of it.
pub(super) fn is_fresh(page: &[u8; PAGE_SIZE]) -> bool {
    page.get(Side::Client.live()) == Some(&Live::Waiting.byte())
}

fn index(page: &[u8; PAGE_SIZE], at: usize) -> Option<[u8; 4]> {
    page.get(at..)?.first_chunk().copied()
}

/// What was seen of such a page.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Left {
    seen: Option<(Published, Time)>,
    looks: u32,
}

impl Left {
    /// Notes that the page was found once more, its keys still standing, and says whether it may be
    /// taken over.
    pub(super) fn may_be_taken_over(
        &mut self,
        published: Published,
        page: &[u8; PAGE_SIZE],
        now: Time,
    ) -> bool {
        match self.seen {
            Some((before, last)) if before == published => {
                if now.since(last) >= RETRY_INTERVAL {
                    self.looks = self.looks.saturating_add(1);
                    self.seen = Some((published, now));
                }
            }
            _ => {
                self.looks = 1;
                self.seen = Some((published, now));
            }
        }
        let is_read = index(page, Ring::Left.prod()) == index(page, Ring::Left.cons());
        is_read && self.looks >= LOOKS
    }
}
