//! The same random steps with the C library at both ends, at one end, and at none, side by side.
//!
//! No call waits, so what each step returns is determined, and has to be the same in all four
//! pairings: the bytes, the counts, the indices in the control page, the live bytes. Where we
//! answer otherwise on purpose, [`rules`] says what we answer instead, and the test fails when we
//! do not. Without the C library the tests are skipped, see [`vchan_tests::c_library`].
//!
//! A sequence that fails is cut down and printed with its seed. `VCHAN_SEED` says with which seed to
//! begin, and with `VCHAN_SOAK_SECONDS` each test goes on with further seeds for so long.

mod last_bytes;
mod pairing;
mod rules;
mod sequence;
mod shrink;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use vchan::layout::{Ring, Side};
use vchan_tests::c_library;
use vchan_tests::driver::received;
use vchan_tests::pattern::Pattern;

use pairing::{Library, PAIRINGS, Pairing};
use rules::Difference;
use sequence::{Orders, Sequence, Step};

/// The first seed; 0 without it.
const SEED: &str = "VCHAN_SEED";
/// How long each test goes on beyond its fixed number of sequences.
const SOAK: &str = "VCHAN_SOAK_SECONDS";

#[test]
fn orders_10_and_11() {
    all_pairings_agree((10, 11), 80);
}

#[test]
fn orders_11_and_10() {
    all_pairings_agree((11, 10), 80);
}

#[test]
fn orders_11_and_12() {
    all_pairings_agree((11, 12), 80);
}

#[test]
fn orders_12_and_11() {
    all_pairings_agree((12, 11), 80);
}

#[test]
fn orders_12_and_12() {
    all_pairings_agree((12, 12), 80);
}

#[test]
fn orders_13_and_13() {
    all_pairings_agree((13, 13), 80);
}

#[test]
fn orders_16_and_12() {
    all_pairings_agree((16, 12), 40);
}

#[test]
fn orders_20_and_20() {
    all_pairings_agree((20, 20), 6);
}

#[test]
fn the_protocol_document_lists_every_difference() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    let document = fs::read_to_string(document).unwrap();
    for difference in Difference::ALL {
        let row = format!("| {} |", difference.name());
        assert!(document.contains(&row), "docs/PROTOCOL.md has no {row}");
    }
}

/// What was done.
#[derive(Debug, Default)]
struct Tally {
    sequences: u64,
    /// In each pairing.
    steps: u64,
    differences: BTreeMap<Difference, u64>,
}

/// Why a sequence failed.
pub(crate) struct Failure {
    /// The number of the step; `None` before the first and after the last.
    step: Option<usize>,
    why: String,
}

fn all_pairings_agree(orders: Orders, sequences: u64) {
    if c_library::driver().is_none() {
        return;
    }
    let until = Instant::now() + Duration::from_secs(number(SOAK));
    let mut pairings = PAIRINGS.map(Pairing::new);
    let mut tally = Tally::default();
    for seed in number(SEED).. {
        if tally.sequences >= sequences && Instant::now() >= until {
            break;
        }
        let sequence = Sequence::from_seed(seed, orders);
        if let Err(failure) = run(&mut pairings, &sequence, &mut tally) {
            let (least, failure) = shrink::shrink(sequence, failure);
            panic!(
                "{least}{}{}",
                failure
                    .step
                    .map_or(String::new(), |step| format!("step {step}: ")),
                failure.why
            );
        }
    }
    println!("orders {orders:?}: {tally:?}");
    for difference in Difference::ALL {
        // A few sequences need not have come by all.
        assert!(
            sequences < 20 || tally.differences.contains_key(&difference),
            "{difference:?} never came up"
        );
    }
}

/// The number in an environment variable; 0 where it is not set.
fn number(variable: &str) -> u64 {
    let value = env::var(variable).ok();
    value.map_or(0, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {value}"))
    })
}

/// Takes all steps in all pairings.
fn run(pairings: &mut [Pairing], sequence: &Sequence, tally: &mut Tally) -> Result<(), Failure> {
    let outside = |(pairing, why): (&Pairing, String)| Failure {
        step: None,
        why: format!("{:?}: {why}", pairing.libraries),
    };
    for pairing in &mut *pairings {
        pairing
            .begin(sequence)
            .map_err(|why| outside((pairing, why)))?;
    }
    // What the left and the right ring will carry.
    let mut carried = [Side::Client, Side::Server]
        .map(|writer| Pattern::from_seed(sequence.outgoing_seed(writer)));
    for (number, &step) in sequence.steps.iter().enumerate() {
        take(pairings, sequence, step, &mut carried, tally).map_err(|why| Failure {
            step: Some(number),
            why,
        })?;
    }
    for pairing in &mut *pairings {
        pairing.end().map_err(|why| outside((pairing, why)))?;
    }
    tally.sequences += 1;
    Ok(())
}

/// Takes one step in all pairings and compares them with the first.
fn take(
    pairings: &mut [Pairing],
    sequence: &Sequence,
    step: Step,
    carried: &mut [Pattern; 2],
    tally: &mut Tally,
) -> Result<(), String> {
    let mut reference = None;
    for pairing in pairings {
        let libraries = pairing.libraries;
        let in_words = |why: String| format!("server and client are {libraries:?}: {step}: {why}");
        let Some(seen) = pairing.take(step).map_err(in_words)? else {
            continue;
        };
        rules::check(libraries, step, &seen, sequence)
            .map_err(|why| in_words(format!("answered {:?}: {why}", seen.answer)))?;
        let Some((c, after)) = &reference else {
            check_bytes(step, &seen.answer, carried)?;
            reference = Some((seen.answer, seen.after));
            tally.steps += 1;
            continue;
        };
        let (expected, difference) = match (libraries[step.side() as usize], step) {
            (Library::Ours, Step::Call(side, call)) => {
                let ring = call.ring(side).unwrap_or(Ring::Left);
                let room = (sequence.capacity(ring), seen.before.used(ring));
                rules::ours(call, c, room)
            }
            _ => (c.clone(), None),
        };
        if seen.answer != expected {
            let answer = &seen.answer;
            return Err(in_words(format!(
                "answered {answer:?}, not {expected:?} (two C libraries: {c:?})"
            )));
        }
        if (seen.after.cons, seen.after.prod, seen.after.live)
            != (after.cons, after.prod, after.live)
        {
            return Err(in_words(format!(
                "the page is\n  {:x?}, with two C libraries\n  {after:x?}",
                seen.after
            )));
        }
        let quieter = (libraries[step.side() as usize] == Library::Ours)
            .then(|| rules::quieter(step, &seen, sequence));
        for difference in difference.into_iter().chain(quieter.into_iter().flatten()) {
            *tally.differences.entry(difference).or_default() += 1;
        }
    }
    Ok(())
}

/// What was read is what was written. Looked at in the first pairing only: the others read the
/// same.
fn check_bytes(step: Step, answer: &str, carried: &mut [Pattern; 2]) -> Result<(), String> {
    let Step::Call(side, call @ (sequence::Call::Read(_) | sequence::Call::Recv(_))) = step else {
        return Ok(());
    };
    let count = rules::moved(call, answer) as usize;
    let bytes = carried[Ring::read_by(side) as usize].bytes(count);
    if count > 0 && answer != received(&bytes) {
        return Err(format!("{step}: {answer} are not the bytes written"));
    }
    Ok(())
}
