use super::*;

/// The orders to choose, accept and refuse.
const VECTORS: &str = include_str!("../../../tests/vectors/orders.csv");

fn rows(kind: &str) -> Vec<Vec<&'static str>> {
    let rows: Vec<Vec<&str>> = VECTORS
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|row| row.first() == Some(&kind))
        .collect();
    assert!(!rows.is_empty(), "no rows of kind {kind}");
    rows
}

#[test]
fn server_chooses_the_orders_of_the_table() {
    for row in rows("server-choice") {
        let chosen = Geometry::for_server(row[1].parse().unwrap(), row[2].parse().unwrap());
        let Ok(left) = row[3].parse::<u16>() else {
            assert_eq!(chosen, Err(row[1].parse().unwrap()), "{row:?}");
            continue;
        };
        let chosen = chosen.unwrap();
        assert_eq!(
            chosen,
            Geometry::new(left, row[4].parse().unwrap()).unwrap(),
            "{row:?}"
        );
    }
}

#[test]
fn server_choice_is_valid_and_large_enough_for_every_interesting_size() {
    let sizes: Vec<usize> = (10..=20)
        .flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1])
        .chain([0, 1])
        .collect();
    for &read in &sizes {
        for &write in &sizes {
            let Ok(geometry) = Geometry::for_server(read, write) else {
                assert!(read.max(write) > 1 << 20);
                continue;
            };
            let number = |ring| u16::from(geometry.order(ring).number());
            assert_eq!(
                Geometry::new(number(Ring::Left), number(Ring::Right)),
                Ok(geometry),
                "{read}, {write}: a client accepts it"
            );
            assert!(geometry.order(Ring::Left).bytes() as usize >= read);
            assert!(geometry.order(Ring::Right).bytes() as usize >= write);
        }
    }
}

#[test]
fn client_accepts_and_refuses_the_orders_of_the_table() {
    for (kind, expected) in [("client-accepts", true), ("client-refuses", false)] {
        for row in rows(kind) {
            let geometry = Geometry::new(row[3].parse().unwrap(), row[4].parse().unwrap());
            assert_eq!(geometry.is_ok(), expected, "{row:?}: {geometry:?}");
        }
    }
}

/// Every pair of u16 orders near the edges, against the rules said in another way.
#[test]
fn accepted_orders_leave_every_byte_of_the_page_to_one_owner() {
    for left in (0..=40).chain([255, 256, 266, 267, 65535]) {
        for right in (0..=40).chain([255, 256, 266, 267, 65535]) {
            let legal = (10..=20).contains(&left) && (10..=20).contains(&right) && {
                let mut used = [0u8; 4096];
                let pages = |n: u16| if n >= 12 { 1usize << (n - 12) } else { 0 };
                used[..24].fill(1);
                for byte in &mut used[24..24 + 4 * (pages(left) + pages(right))] {
                    *byte += 1;
                }
                for order in [left, right] {
                    match order {
                        10 => used[1024..2048].iter_mut().for_each(|byte| *byte += 1),
                        11 => used[2048..4096].iter_mut().for_each(|byte| *byte += 1),
                        _ => {}
                    }
                }
                used.iter().all(|&byte| byte <= 1)
            };
            assert_eq!(Geometry::new(left, right).is_ok(), legal, "{left}, {right}");
        }
    }
}

/// The page of the session in the README: read and write size 5000, grants 9 to 12.
const GOLDEN: &str = "
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00
    0b 00 00 00 0c 00 00 00";

#[test]
fn golden_page_is_built_and_parsed_byte_for_byte() {
    let golden: Vec<u8> = GOLDEN
        .split_whitespace()
        .map(|hex| u8::from_str_radix(hex, 16).unwrap())
        .collect();
    let page = ControlPage {
        geometry: Geometry::for_server(5000, 5000).unwrap(),
        left_grants: vec![GrantRef(9), GrantRef(10)],
        right_grants: vec![GrantRef(11), GrantRef(12)],
    };
    assert_eq!(page.build(), golden);
    let mut whole = [0; PAGE_SIZE];
    whole[..golden.len()].copy_from_slice(&golden);
    assert_eq!(ControlPage::parse(&whole).unwrap(), page);
}

#[test]
fn empty_pages_are_not_vchan_pages() {
    for byte in [0, 0xFF] {
        let error = ControlPage::parse(&[byte; PAGE_SIZE]).unwrap_err();
        assert!(matches!(error, InvalidPage::Blank(_)), "{error}");
    }
}
