use super::*;
use crate::goal::Met;

/// Three rounds in which Rust↔Rust takes a quarter of C's time and the links of both twice that.
fn figures() -> String {
    let mut lines = String::new();
    for (kind, _) in KINDS {
        for round in 1..=3 {
            for (ends, part) in [
                ("c c", 1000),
                ("rust rust", 250),
                ("rust c", 500),
                ("c rust", 800),
            ] {
                for load in [
                    "16 stream 64",
                    "16 stream 256",
                    "16 stream 4096",
                    "16 stream 65536",
                    "20 stream 64",
                    "20 stream 4096",
                    "16 trips 64",
                    "16 trips-asleep 64",
                ] {
                    let time = part * round;
                    let _ = writeln!(
                        lines,
                        "{kind} {ends} {load} {round} 16384 {time} {part} 5000"
                    );
                }
            }
        }
    }
    lines
}

#[test]
fn the_slowest_counts_and_rounds_are_compared_with_themselves() {
    let xen = RealXen::measured(&figures(), "today".to_owned()).unwrap();
    let values = |goal: &Goal| -> Vec<f64> {
        goal.parts
            .iter()
            .map(|part| part.value.unwrap().median)
            .collect()
    };
    let goals = xen.goals();
    assert_eq!(values(&goals[0]), [4.0, 4.0, 1.25, 4.0, 4.0, 1.25]);
    assert_eq!(goals[0].met(), Met::Aim);
    assert!(
        goals[0]
            .note
            .contains("PVH, C in the guest, Rust in dom0, stream of 64 B")
    );
    assert_eq!(values(&goals[1]), [0.25; 6]);
    assert_eq!(goals[1].met(), Met::No);
}

#[test]
fn every_row_of_the_section_says_that_it_is_emulation() {
    let section = RealXen::measured(&figures(), "today".to_owned())
        .unwrap()
        .section();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let figures = rows.filter(|row| row.contains("PV"));
    assert_eq!(figures.clone().count(), 12 + 32 + 32);
    for row in figures {
        assert!(row.contains(EMULATED), "{row}");
    }
    let counted = "| PV | stream of 64 B, ring order 16 | 1000.0 of 5000.0 | 250.0 of 5000.0 |";
    assert!(section.contains(counted), "{section}");
}

#[test]
fn what_is_kept_is_found_again() {
    let directory = std::env::temp_dir().join(format!("real-xen-{}", std::process::id()));
    let document = directory.join("PERFORMANCE.md");
    let xen = RealXen::measured(&figures(), "today, here".to_owned()).unwrap();
    assert!(RealXen::kept(&document).unwrap().is_none());
    xen.keep(&document).unwrap();
    let kept = RealXen::kept(&document).unwrap().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(kept.figures, xen.figures);
    assert_eq!(kept.circumstances, "today, here");
}

#[test]
fn what_is_no_figure_is_refused() {
    for line in [
        "",
        "pv c c 16 stream 64 1 10 0 0 0",
        "pv c c 16 stream 64 1 10 5 0",
        "x",
    ] {
        assert!(RealXen::measured(line, String::new()).is_err(), "{line}");
    }
}
