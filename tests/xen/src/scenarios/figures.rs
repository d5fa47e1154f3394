//! What a unikernel costs beside the Linux guest with the same echo: figures, which are told and
//! never judged. Both are measured in one boot, one after the other, by the same client.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vchan::{Channel, Client, DomId, Host};

use super::random_bytes;
use crate::guests::{Guest, Image, Kind, Which};
use crate::report::report;

/// No wait takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many times round trips are measured, and how long by dom0's clock each time at least.
const MEASUREMENTS: usize = 11;
const MEASURED_FOR: Duration = Duration::from_millis(500);
/// No machine makes so many in that time.
const MOST_ROUND_TRIPS: u32 = 1 << 20;
const BULK: usize = 4 << 20;

/// Of one guest.
struct Figures {
    created_ms: f64,
    round_trip_us: f64,
    mib_per_second: f64,
    idle_ms: f64,
}

pub(super) fn figures(kind: Kind) -> Result<()> {
    let of = |image| of_guest(Which { kind, image });
    let (unikernel, linux) = (of(Image::Unikernel)?, of(Image::EchoGuest)?);
    let line = |what: &str, unit: &str, one: fn(&Figures) -> f64| {
        let (ours, theirs) = (one(&unikernel), one(&linux));
        println!(
            "note: {kind} {what}: unikernel {ours:.1} {unit}, Linux guest {theirs:.1} {unit}, \
             ratio {:.3} (QEMU software emulation, not hardware)",
            ours / theirs
        );
    };
    line("from xl create to the keys", "ms", |f| f.created_ms);
    line("blocking round trip of 1 byte", "us", |f| f.round_trip_us);
    line("echo of 4 MiB, rings of 8 KiB", "MiB/s", |f| {
        f.mib_per_second
    });
    line("processor time in an idle minute", "ms", |f| f.idle_ms);
    Ok(())
}

fn of_guest(which: Which) -> Result<Figures> {
    let host = vchan::xen::host()?;
    let step = |what: &str| report(&format!("note {} {:?}: {what}", which.kind, which.image));
    step("is created");
    let began = Instant::now();
    let guest = which.created()?;
    // Whoever waits for the keys is told at once.
    let mut channel = connect(&host, &guest)?;
    let created_ms = began.elapsed().as_secs_f64() * 1e3;
    step("makes round trips");
    let round_trip_us = round_trip(&mut channel)?.as_secs_f64() * 1e6;
    step("echoes 4 MiB");
    let mib_per_second = throughput(channel)?;
    step("is idle for a minute");

    // Until what the session has left to do is done: what the boot took does not count.
    std::thread::sleep(Duration::from_secs(5));
    let before = guest.processor_time()?;
    std::thread::sleep(Duration::from_secs(60));
    let idle = guest.processor_time()? - before;
    guest.destroy()?;
    Ok(Figures {
        created_ms,
        round_trip_us,
        mib_per_second,
        idle_ms: idle.as_secs_f64() * 1e3,
    })
}

/// How long one takes: the median of several measurements of many.
///
/// One by one they cannot be measured. In some boots dom0's clock stands still for milliseconds: the
/// emulated processors' counters differ, and where one is ahead, Linux shows that one's time until
/// the other has caught up.
fn round_trip(channel: &mut Channel) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..MEASUREMENTS {
        let began = Instant::now();
        let mut trips = 0;
        while began.elapsed() < MEASURED_FOR {
            ensure!(
                trips < MOST_ROUND_TRIPS,
                "dom0's clock stands still: {:?} for {trips} round trips",
                began.elapsed()
            );
            for _ in 0..64 {
                channel.write_all(b"x")?;
                let mut answer = [0];
                channel.read_exact(&mut answer)?;
                ensure!(answer == *b"X", "it answers {answer:?}");
                trips += 1;
            }
        }
        times.push(began.elapsed() / trips);
    }
    times.sort_unstable();
    println!("note: round trips, measured {MEASUREMENTS} times: {times:.1?}");
    Ok(times[MEASUREMENTS / 2])
}

fn connect(host: &Host, guest: &Guest) -> Result<Channel> {
    let server: DomId = guest.domid.parse()?;
    let mut channel = Client::builder(host, server).timeout(PATIENCE).connect()?;
    channel.set_read_timeout(Some(PATIENCE));
    Ok(channel)
}

fn throughput(channel: Channel) -> Result<f64> {
    let sent = random_bytes(BULK);
    let mut came = vec![0; BULK];
    let (mut reading, mut writing) = channel.into_split();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| writing.write_all(&sent));
        reading.read_exact(&mut came)?;
        writer.join().ok().context("the writer panicked")??;
        anyhow::Ok(())
    })?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(came == sent.to_ascii_uppercase(), "other bytes came back");
    Ok(4.0 / seconds)
}
