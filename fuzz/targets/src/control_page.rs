//! A control page as a hostile server may leave it.

use vchan::layout::{ControlPage, GRANTS, Geometry, InvalidPage, Place, Ring};
use vchan::memory::PAGE_SIZE;

/// The bytes are the beginning of the page, and all of it when there are enough of them; the last
/// eight also are the sizes that a server asks for.
pub fn run(data: &[u8]) {
    let mut page = [0; PAGE_SIZE];
    for (to, from) in page.iter_mut().zip(data) {
        *to = *from;
    }
    parse(&page);
    if let Some(sizes) = data.last_chunk() {
        choose(*sizes);
    }
}

fn parse(page: &[u8; PAGE_SIZE]) {
    let [left, right] = [16, 18].map(|at| u16::from_le_bytes([page[at], page[at + 1]]));
    let blank = page.iter().all(|&byte| byte == 0) || page.iter().all(|&byte| byte == 0xFF);
    match ControlPage::parse(page) {
        Ok(parsed) => {
            assert!(!blank && is_possible(left, right), "{left} and {right}");
            accepted(page, &parsed, [left, right]);
        }
        Err(InvalidPage::Blank(_)) => assert!(blank),
        Err(_) => assert!(!blank && !is_possible(left, right), "{left} and {right}"),
    }
}

/// What an accepted page means, and that it means nothing else.
fn accepted(page: &[u8; PAGE_SIZE], parsed: &ControlPage, orders: [u16; 2]) {
    let geometry = parsed.geometry;
    let rings = [Ring::Left, Ring::Right];
    let list = GRANTS + 4 * geometry.grant_count();
    let mut taken = Vec::new();
    taken.push(0..list);
    for ((ring, order), grants) in
        (rings.into_iter().zip(orders)).zip([&parsed.left_grants, &parsed.right_grants])
    {
        assert_eq!(u16::from(geometry.order(ring).number()), order);
        let bytes = geometry.order(ring).bytes() as usize;
        match geometry.place(ring) {
            Place::ControlPage(start) => {
                assert!(grants.is_empty());
                taken.push(start..start + bytes);
            }
            Place::Pages(count) => {
                assert_eq!((grants.len(), bytes), (count, count * PAGE_SIZE));
            }
        }
    }
    taken.sort_by_key(|range| range.start);
    for pair in taken.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{taken:?} overlap");
    }
    assert!(
        taken.iter().all(|range| range.end <= PAGE_SIZE),
        "{taken:?}"
    );

    let built = parsed.build();
    assert_eq!(built.len(), list);
    assert_eq!(built[16..20], page[16..20], "the orders");
    assert_eq!(built[GRANTS..], page[GRANTS..list], "the grants");
    let mut again = [0; PAGE_SIZE];
    again[..list].copy_from_slice(&built);
    assert_eq!(ControlPage::parse(&again).as_ref(), Ok(parsed));
}

/// The rule of the protocol, said once more and otherwise: where the list of grants, a ring of
/// order 10 and one of order 11 lie, and that no two of them share a byte.
fn is_possible(left: u16, right: u16) -> bool {
    let orders = [left, right].map(u32::from);
    if orders.iter().any(|order| !(10..=20).contains(order)) {
        return false;
    }
    let pages: usize = orders.map(|order| (1 << order) / PAGE_SIZE).iter().sum();
    let first_ring = match orders {
        [10, 10] | [11, 11] => return false,
        [10, _] | [_, 10] => 1024,
        [11, _] | [_, 11] => 2048,
        _ => PAGE_SIZE,
    };
    24 + 4 * pages <= first_ring
}

/// The orders that a server chooses are such as a client accepts, and as large as was asked.
fn choose(sizes: [u8; 8]) {
    let [a, b, c, d, e, f, g, h] = sizes;
    let [read, write] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
    let (read, write) = ((read & 0x1F_FFFF) as usize, (write & 0x1F_FFFF) as usize);
    match Geometry::for_server(read, write) {
        Ok(chosen) => {
            let number = |ring| u16::from(chosen.order(ring).number());
            let checked = Geometry::new(number(Ring::Left), number(Ring::Right));
            assert_eq!(checked, Ok(chosen), "a client accepts it");
            assert!(chosen.order(Ring::Left).bytes() as usize >= read);
            assert!(chosen.order(Ring::Right).bytes() as usize >= write);
        }
        Err(size) => assert!(size > 1 << 20 && (size == read || size == write)),
    }
}
