//! What a unikernel costs beside the Linux guest with the same echo: figures, which are told and
//! never judged. Both are measured in one boot, one after the other, by the same client.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vchan::{Channel, Client, DomId, Host};

use super::random_bytes;
use crate::guests::{Guest, Image, Kind, Which};

/// No wait takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
const ROUND_TRIPS: usize = 1000;
const BULK: usize = 4 << 20;

/// Of one guest. Times in milliseconds but for the round trip, which is in microseconds.
struct Figures {
    created: f64,
    round_trip: f64,
    mib_per_second: f64,
    idle_seconds: f64,
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
    line("from xl create to the keys", "ms", |f| f.created);
    line("blocking round trip of 1 byte, median", "us", |f| {
        f.round_trip
    });
    line("echo of 4 MiB, rings of 8 KiB", "MiB/s", |f| {
        f.mib_per_second
    });
    line("processor time in an idle minute", "s", |f| f.idle_seconds);
    Ok(())
}

fn of_guest(which: Which) -> Result<Figures> {
    let host = vchan::xen::host()?;
    let began = Instant::now();
    let guest = which.created()?;
    // Whoever waits for the keys is told at once.
    let mut channel = connect(&host, &guest)?;
    let created = began.elapsed().as_secs_f64() * 1e3;

    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let sent = Instant::now();
        channel.write_all(b"x")?;
        let mut answer = [0];
        channel.read_exact(&mut answer)?;
        times.push(sent.elapsed());
        ensure!(answer == *b"X", "it answers {answer:?}");
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("nothing was measured")?;
    let round_trip = median.as_secs_f64() * 1e6;
    let mib_per_second = throughput(channel)?;

    // Until what the session has left to do is done.
    std::thread::sleep(Duration::from_secs(2));
    let before = guest.processor_time()?;
    std::thread::sleep(Duration::from_secs(60));
    let idle_seconds = guest.processor_time()? - before;
    guest.destroy()?;
    Ok(Figures {
        created,
        round_trip,
        mib_per_second,
        idle_seconds,
    })
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
