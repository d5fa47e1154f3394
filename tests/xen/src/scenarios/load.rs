//! The links that `cargo xtask bench --xen` measures, for a moment: every byte is compared, no time
//! is.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::OfKind;
use crate::guests::{Guest, Image, Kind};
use crate::load::{Ends, Link, Load, ORDERS};

pub(super) const SCENARIOS: &[OfKind] = &[
    ("xl-create", 240, |kind| {
        Guest::running(kind, Image::Load).map(drop)
    }),
    ("every-link", 240, every_link),
    ("destroyed", 60, |kind| {
        Guest::running(kind, Image::Load)?.destroy()
    }),
];

fn every_link(kind: Kind) -> Result<()> {
    let limit = Duration::from_secs(120);
    let guest = Guest::running(kind, Image::Load)?;
    for (ends, order) in Ends::ALL.into_iter().zip(ORDERS.into_iter().cycle()) {
        let mut link = Link::connect(&guest, order, ends)?;
        for (load, count) in [
            (Load::Stream(64), 32 * 1024),
            (Load::Stream(64 * 1024), 32),
            (Load::StreamAsleep(64), 4096),
            (Load::Trips(64), 8),
            (Load::TripsAsleep(64), 8),
        ] {
            let figure = link.measure(load, count, limit)?;
            println!("{ends}, {load}: {figure:?}");
            // The streams are longer than the ring: one end waits, and C's does not look before it
            // sleeps.
            let least = u64::from(ends == Ends::ALL[0]);
            ensure!(
                (least..=figure.calls).contains(&figure.notifications),
                "{ends} did not count during {load}: {figure:?}"
            );
        }
        link.end()?;
    }
    Ok(())
}
