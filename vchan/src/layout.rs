//! The control page and where the rings lie: offsets, orders, geometry, live and notify bytes.
//!
//! Facts of the wire, from Xen's public header `io/libxenvchan.h`; docs/PROTOCOL.md has the table.
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used
)]

use alloc::vec::Vec;
use core::fmt;

use crate::guard::keeps;
use crate::host::GrantRef;
use crate::memory::PAGE_SIZE;

/// Offset of the first grant reference: the length of the header.
pub const GRANTS: usize = 24;
/// Offset of `left_order`, two bytes.
const LEFT_ORDER: usize = 16;
/// Offset of `right_order`, two bytes.
const RIGHT_ORDER: usize = 18;
/// Offset of the client's live byte.
pub const CLIENT_LIVE: u16 = 20;
/// Offset of the server's live byte.
pub const SERVER_LIVE: u16 = 21;
/// Offset of the notify byte that the server sets and the client clears: what the client is to
/// tell the server.
pub const CLIENT_NOTIFY: usize = 22;
/// Offset of the notify byte that the client sets and the server clears.
pub const SERVER_NOTIFY: usize = 23;

/// Notify bit: "tell me when you have written".
pub const NOTIFY_WRITE: u8 = 1;
/// Notify bit: "tell me when you have read".
pub const NOTIFY_READ: u8 = 2;

/// Which end of a vchan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The end that shared the pages.
    Server,
    /// The end that mapped them.
    Client,
}

impl Side {
    /// Offset of this end's own live byte.
    #[must_use]
    pub const fn live(self) -> usize {
        self.live_offset() as usize
    }

    /// [`live`](Side::live), as the host's unmap-notify takes it.
    #[must_use]
    pub const fn live_offset(self) -> u16 {
        match self {
            Side::Server => SERVER_LIVE,
            Side::Client => CLIENT_LIVE,
        }
    }

    /// Offset of the notify byte that this end clears: what the peer wants to be told.
    #[must_use]
    pub const fn asked_of_us(self) -> usize {
        match self {
            Side::Server => SERVER_NOTIFY,
            Side::Client => CLIENT_NOTIFY,
        }
    }

    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Side {
        match self {
            Side::Server => Side::Client,
            Side::Client => Side::Server,
        }
    }
}

/// One of the two rings. A ring's producer and consumer indices are u32, run freely and wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// From client to server.
    Left,
    /// From server to client.
    Right,
}

impl Ring {
    /// The ring that `side` reads.
    #[must_use]
    pub const fn read_by(side: Side) -> Ring {
        match side {
            Side::Server => Ring::Left,
            Side::Client => Ring::Right,
        }
    }

    /// The ring that `side` writes.
    #[must_use]
    pub const fn written_by(side: Side) -> Ring {
        Ring::read_by(side.peer())
    }

    /// Offset of the consumer index.
    #[must_use]
    pub const fn cons(self) -> usize {
        match self {
            Ring::Left => 0,
            Ring::Right => 8,
        }
    }

    /// Offset of the producer index.
    #[must_use]
    pub const fn prod(self) -> usize {
        match self {
            Ring::Left => 4,
            Ring::Right => 12,
        }
    }
}

/// The value of a live byte that means something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Live {
    /// 0: closed, died, or unmapped.
    Gone,
    /// 1: there.
    Connected,
    /// 2: only in the client's byte: the server waits for a client.
    Waiting,
}

impl Live {
    /// The meaning of a byte; `None` where it has none.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Live> {
        match byte {
            0 => Some(Live::Gone),
            1 => Some(Live::Connected),
            2 => Some(Live::Waiting),
            _ => None,
        }
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Live::Gone => 0,
            Live::Connected => 1,
            Live::Waiting => 2,
        }
    }
}

/// A ring order: the ring has 2^order bytes, 10 ≤ order ≤ 20.
///
/// ```
/// use vchan::layout::Order;
/// let order = Order::new(13).unwrap();
/// assert_eq!((order.bytes(), order.pages()), (8192, 2));
/// assert!(Order::new(9).is_none() && Order::new(21).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Order(u8);

impl Order {
    /// 1024 bytes, in the control page.
    pub const MIN: Order = Order(10);
    /// 2048 bytes, in the control page.
    const IN_PAGE_2048: Order = Order(11);
    /// One page of its own.
    const ONE_PAGE: Order = Order(12);
    /// 1 MiB.
    pub const MAX: Order = Order(20);

    /// The order with this number, if there is one.
    #[must_use]
    pub fn new(number: u16) -> Option<Order> {
        let number = u8::try_from(number).ok()?;
        (Self::MIN.0..=Self::MAX.0)
            .contains(&number)
            .then_some(Order(number))
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The ring's size in bytes, 1024 to 1 MiB.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match 1u32.checked_shl(self.0 as u32) {
            Some(bytes) => bytes,
            None => unreachable!(),
        }
    }

    /// How many granted pages the ring takes; 0 when it lies in the control page.
    #[must_use]
    pub const fn pages(self) -> usize {
        match self.0.checked_sub(Self::ONE_PAGE.0) {
            Some(shift) => 1 << shift,
            None => 0,
        }
    }

    /// The smallest ring outside of the control page that holds `size` bytes.
    fn outside_page(size: u32) -> Order {
        let exponent = size.next_power_of_two().trailing_zeros();
        u16::try_from(exponent)
            .ok()
            .and_then(Order::new)
            .unwrap_or(Self::MIN)
            .max(Self::ONE_PAGE)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a ring lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the control page, from this offset on.
    ControlPage(usize),
    /// In this many pages of its own.
    Pages(usize),
}

/// A pair of orders that the protocol allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    left: Order,
    right: Order,
}

impl Geometry {
    /// Checks a pair of orders as they stand in a control page.
    ///
    /// # Errors
    /// [`InvalidGeometry`] when an order is out of range, when both rings claim the same bytes of
    /// the control page, or when the list of grants would run into a ring there.
    pub fn new(left: u16, right: u16) -> Result<Geometry, InvalidGeometry> {
        let invalid = |reason| InvalidGeometry {
            left,
            right,
            reason,
        };
        let order = |number| Order::new(number).ok_or(invalid("a ring order is from 10 to 20"));
        let geometry = Geometry {
            left: order(left)?,
            right: order(right)?,
        };
        let same_bytes = geometry.left == geometry.right && geometry.left < Order::ONE_PAGE;
        if same_bytes && keeps("rings-apart") {
            return Err(invalid(
                "both rings would lie in the same bytes of the control page",
            ));
        }
        let list = geometry
            .grant_count()
            .saturating_mul(4)
            .saturating_add(GRANTS);
        let in_page = [Ring::Left, Ring::Right].map(|ring| geometry.place(ring));
        for place in in_page {
            let runs_into = matches!(place, Place::ControlPage(start) if list > start);
            if runs_into && keeps("list-before-ring") {
                return Err(invalid(
                    "the list of grants would run into a ring in the page",
                ));
            }
        }
        Ok(geometry)
    }

    /// What a server chooses: the left ring holds at least `read_min` bytes, the right one
    /// `write_min`. Small rings go into the control page where they fit.
    ///
    /// # Errors
    /// The size that is more than 1 MiB.
    pub fn for_server(read_min: usize, write_min: usize) -> Result<Geometry, usize> {
        let fit = |size| match u32::try_from(size) {
            Ok(small) if small <= Order::MAX.bytes() => Ok(small),
            _ => Err(size),
        };
        let (read, write) = (fit(read_min)?, fit(write_min)?);
        let (left, right) = match (read, write) {
            (0..=1024, 0..=2048) => (Order::MIN, Order::IN_PAGE_2048),
            (0..=2048, 0..=1024) => (Order::IN_PAGE_2048, Order::MIN),
            (0..=2048, _) => (Order::IN_PAGE_2048, Order::outside_page(write)),
            (_, 0..=2048) => (Order::outside_page(read), Order::IN_PAGE_2048),
            _ => (Order::outside_page(read), Order::outside_page(write)),
        };
        Ok(Geometry { left, right })
    }

    /// A ring's order.
    #[must_use]
    pub const fn order(&self, ring: Ring) -> Order {
        match ring {
            Ring::Left => self.left,
            Ring::Right => self.right,
        }
    }

    /// Where a ring lies: order 10 at byte 1024 of the control page, order 11 at 2048, larger ones
    /// in pages of their own.
    #[must_use]
    pub fn place(&self, ring: Ring) -> Place {
        match self.order(ring) {
            Order::MIN => Place::ControlPage(1024),
            Order::IN_PAGE_2048 => Place::ControlPage(2048),
            order => Place::Pages(order.pages()),
        }
    }

    /// How many grant references stand in the control page: the left ring's, then the right's.
    #[must_use]
    pub fn grant_count(&self) -> usize {
        self.left.pages().saturating_add(self.right.pages())
    }
}

/// Two ring orders that no vchan can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's ring orders {left} and {right} cannot be: {reason}")]
pub struct InvalidGeometry {
    /// The left ring's order, as found.
    pub left: u16,
    /// The right ring's order, as found.
    pub right: u16,
    reason: &'static str,
}

/// A page that is no control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPage {
    /// It holds nothing of a vchan.
    #[error(
        "the page that the server shares is all {0}: not a vchan control page; the keys may be \
         left over from a server that is gone"
    )]
    Blank(&'static str),
    /// Its ring orders cannot be.
    #[error(transparent)]
    Geometry(#[from] InvalidGeometry),
}

/// What a control page says, taken from one private copy of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlPage {
    /// The orders, and what follows from them.
    pub geometry: Geometry,
    /// The left ring's grant references.
    pub left_grants: Vec<GrantRef>,
    /// The right ring's grant references.
    pub right_grants: Vec<GrantRef>,
}

impl ControlPage {
    /// Reads a copy of a control page that a server made.
    ///
    /// # Errors
    /// [`InvalidPage`].
    pub fn parse(page: &[u8; PAGE_SIZE]) -> Result<ControlPage, InvalidPage> {
        for (byte, what) in [(0, "zeros"), (0xFF, "ones")] {
            if page.iter().all(|&found| found == byte) && keeps("blank-page") {
                return Err(InvalidPage::Blank(what));
            }
        }
        let geometry = Geometry::new(read_u16(page, LEFT_ORDER), read_u16(page, RIGHT_ORDER))?;
        let grants = page.get(GRANTS..).unwrap_or_default().chunks_exact(4);
        let mut grants = grants
            .filter_map(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes);
        let mut take = |ring| {
            grants
                .by_ref()
                .take(geometry.order(ring).pages())
                .map(GrantRef)
                .collect::<Vec<_>>()
        };
        let (left_grants, right_grants) = (take(Ring::Left), take(Ring::Right));
        Ok(ControlPage {
            geometry,
            left_grants,
            right_grants,
        })
    }

    /// The start of the page that a server shares before any client is there: header and grant
    /// references. All other bytes are zero.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE_SIZE);
        page.resize(LEFT_ORDER, 0);
        for ring in [Ring::Left, Ring::Right] {
            page.extend(u16::from(self.geometry.order(ring).number()).to_le_bytes());
        }
        // In the order of their offsets: client live, server live, client notify, server notify.
        // The server wants to hear of the first bytes; the client asks when it comes.
        page.extend([
            Live::Waiting.byte(),
            Live::Connected.byte(),
            NOTIFY_WRITE,
            0,
        ]);
        for grant in self.left_grants.iter().chain(&self.right_grants) {
            page.extend(grant.0.to_le_bytes());
        }
        page
    }
}

fn read_u16(page: &[u8; PAGE_SIZE], offset: usize) -> u16 {
    let bytes = page.get(offset..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
