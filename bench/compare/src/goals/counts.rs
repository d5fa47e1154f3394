//! Counts of instructions: they do not depend on how busy the machine is.

use std::env;

use anyhow::Result;
use vchan_bench::peers::vchan::Mode;
use vchan_bench::stats::Spread;

use super::{Effort, Libraries};
use crate::callgrind;
use crate::goal::{Bound, Goal, Part};

pub fn instructions(_effort: Effort, libraries: &Libraries) -> Result<Goal> {
    let program = env::current_exe()?;
    let ours = callgrind::count(&program, "rust", 64, 1)?.instructions;
    let rtrb = callgrind::count(&program, "rtrb", 64, 1)?.instructions;
    let c = match libraries.theirs(Mode::Blocking) {
        Some(_) => Some(callgrind::count(&program, "c", 64, 1)?.instructions),
        None => None,
    };
    let theirs = c.map_or_else(|| "?".to_owned(), |c| format!("{c:.0}"));
    let against_c = c.and_then(|c| Spread::of(vec![ours / c]));
    Ok(Goal {
        name: "instructions per 64 B pair (callgrind)",
        parts: vec![
            Part::new("against C", Bound::AtMost(0.75, 0.65), against_c),
            Part::count("against rtrb", Bound::AtMost(0.90, 0.80), ours / rtrb),
        ],
        note: format!("ours {ours:.0}, C {theirs}, rtrb {rtrb:.0}"),
    })
}

pub fn fences(_effort: Effort, _libraries: &Libraries) -> Result<Goal> {
    const BATCH: usize = 16;
    let program = env::current_exe()?;
    let single = callgrind::count(&program, "rust", 64, 1)?;
    let batch = callgrind::count(&program, "rust", 64, BATCH)?;
    let aim = 1.0 + 2.0 / BATCH as f64;
    let none = Bound::AtMost(0.0, 0.0);
    Ok(Goal {
        name: "while the peer has not armed, per pair",
        parts: vec![
            Part::count("full fences", Bound::AtMost(2.0, 2.0), single.fences),
            Part::count(
                "full fences in batches of 16",
                Bound::AtMost(2.0, aim),
                batch.fences,
            ),
            Part::count(
                "locked read-modify-writes",
                none,
                single.locked + batch.locked,
            ),
        ],
        note: "of the instructions that callgrind saw executed".to_owned(),
    })
}
