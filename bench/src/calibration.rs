//! What the machine itself can do, measured in every run: figures without these mean nothing.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::Instant;

use crate::cpu::{self, Placement};
use crate::peers::sockets::Eventfd;
use crate::stats::Spread;
use crate::{Failure, Peer, Transport};

/// One figure of the machine.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// How much of it.
    pub value: Spread,
    /// In what.
    pub unit: &'static str,
}

/// Measures everything, `rounds` times each. What this machine cannot do is left out.
///
/// # Errors
/// When a measurement fails that can be done here.
pub fn all(rounds: usize) -> Result<Vec<Row>, Failure> {
    type Measurement = fn() -> Result<f64, Failure>;
    let measurements: [(&str, &str, Measurement); 7] = [
        ("memcpy of 4 KiB, near", "GB/s", || Ok(copies(4096))),
        ("memcpy of 1 MiB", "GB/s", || Ok(copies(1 << 20))),
        ("locked instruction, alone", "ns", || Ok(locked())),
        ("full fence, alone", "ns", || Ok(fences())),
        ("cache line there and back, across CPUs", "ns", cache_line),
        ("eventfd round trip on one CPU", "µs", || {
            eventfd(Placement::OneCpu)
        }),
        ("eventfd round trip across CPUs", "µs", || {
            eventfd(Placement::Across)
        }),
    ];
    let mut rows = Vec::new();
    for (name, unit, measurement) in measurements {
        let figures: Result<Vec<f64>, Failure> = (0..rounds).map(|_| measurement()).collect();
        match figures {
            Ok(figures) => rows.extend(Spread::of(figures).map(|value| Row { name, value, unit })),
            Err(Failure::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

fn copies(size: usize) -> f64 {
    let (from, mut to) = (vec![7_u8; size], vec![0_u8; size]);
    let count = (16 << 20) / size;
    let since = Instant::now();
    for _ in 0..count {
        crate::peers::memory::one_copy(&from, &mut to);
        std::hint::black_box(&mut to);
    }
    (count * size) as f64 / since.elapsed().as_secs_f64() / 1e9
}

const OPERATIONS: u32 = 200_000;

fn locked() -> f64 {
    let counter = AtomicU64::new(0);
    let since = Instant::now();
    for _ in 0..OPERATIONS {
        std::hint::black_box(&counter).fetch_add(1, Ordering::Relaxed);
    }
    since.elapsed().as_secs_f64() * 1e9 / f64::from(OPERATIONS)
}

fn fences() -> f64 {
    let counter = AtomicU64::new(0);
    let since = Instant::now();
    for nth in 0..OPERATIONS {
        // A store, so that there is something to order.
        counter.store(nth.into(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        std::hint::black_box(&counter);
    }
    since.elapsed().as_secs_f64() * 1e9 / f64::from(OPERATIONS)
}

/// Two threads increment a counter in turn.
fn cache_line() -> Result<f64, Failure> {
    const TRIPS: u64 = 20_000;
    #[repr(align(128))]
    struct Line(AtomicU64);
    let [ours, theirs] = Placement::Across.cpus()?;
    let line = &Line(AtomicU64::new(0));
    let turns = move |cpu, first: u64| {
        cpu::pin(cpu)?;
        let since = Instant::now();
        for turn in (first..2 * TRIPS).step_by(2) {
            while line.0.load(Ordering::Acquire) != turn {
                std::hint::spin_loop();
            }
            line.0.store(turn + 1, Ordering::Release);
        }
        Ok::<_, Failure>(since.elapsed().as_secs_f64() * 1e9 / TRIPS as f64)
    };
    thread::scope(|scope| {
        let other = scope.spawn(move || turns(theirs, 1));
        let first = scope.spawn(move || turns(ours, 0));
        other.join().map_err(|_| Failure::Panic)??;
        first.join().map_err(|_| Failure::Panic)?
    })
}

/// How long it takes to wake a thread that wakes this one, in microseconds.
///
/// # Errors
/// When there are no two processors, or the system has no more descriptors.
pub fn eventfd(placement: Placement) -> Result<f64, Failure> {
    const TRIPS: u32 = 2_000;
    let [ours, theirs] = placement.cpus()?;
    let (mut left, mut right) = Eventfd.connect(0)?;
    let one = 1_u64.to_ne_bytes();
    thread::scope(|scope| {
        let other = scope.spawn(move || {
            cpu::pin(theirs)?;
            for _ in 0..TRIPS {
                right.recv(&mut [0; 8])?;
                right.send(&one)?;
            }
            Ok::<_, Failure>(())
        });
        let first = scope.spawn(move || {
            cpu::pin(ours)?;
            let since = Instant::now();
            for _ in 0..TRIPS {
                left.send(&one)?;
                left.recv(&mut [0; 8])?;
            }
            Ok::<_, Failure>(since.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS))
        });
        other.join().map_err(|_| Failure::Panic)??;
        first.join().map_err(|_| Failure::Panic)?
    })
}
