//! A hostile process: it joins the emulated host as the peer, shares the pages for real, keeps to
//! the protocol for a while and then writes anything anywhere, on another processor, while the
//! victim in this process goes on. Group A of the fault catalogue, in the large.
//!
//! `VCHAN_HOSTILE_SECONDS` makes it longer, `VCHAN_HOSTILE_SEED` repeats a run as far as two
//! processors repeat anything.
#![cfg(feature = "tokio")]

#[path = "../common/mod.rs"]
mod common;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::raw::{self, RawPeer};
use common::{LONG, World, guest, pattern, wait_until};
use vchan::layout::{Geometry, Side};
use vchan::{Channel, Client, DomId, Error, Host, Server, State};
use vchan_emulator::DOMAIN_VARIABLE;

mod attack;
mod victim;

use attack::{Random, Style, attack};
use victim::{Mode, Victim};

const SIDE: &str = "VCHAN_HOSTILE_SIDE";
const SECONDS: &str = "VCHAN_HOSTILE_SECONDS";
const SEED: &str = "VCHAN_HOSTILE_SEED";

fn number(variable: &str, otherwise: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(otherwise, |value| value.parse().unwrap())
}

/// A connection, as both processes know it beforehand.
#[derive(Clone, Copy, Debug)]
struct Round {
    style: Style,
    /// Bytes that cross unharmed in each direction, before anything else happens.
    honest: usize,
    seed: u64,
}

impl Round {
    fn new(seed: u64, nth: u64) -> Round {
        let mut random = Random::new(seed, nth);
        let style = random.pick(&[
            Style::Anything,
            Style::Anything,
            Style::Indices,
            Style::Lies,
            Style::Flags,
            Style::Storm,
            Style::Harmless,
            Style::Honest,
        ]);
        let honest = match style {
            Style::Harmless | Style::Honest => 5000 + random.below(20_000),
            _ => random.pick(&[0, 1, 700, 1024, 3000]) + random.below(900),
        };
        // Sometimes it is hostile from its first moment on.
        let at_once = random.below(4) == 0 && style != Style::Harmless && style != Style::Honest;
        Round {
            style,
            honest: if at_once { 0 } else { honest },
            seed: seed ^ nth,
        }
    }

    /// The bytes that the peer writes, or those that the victim writes.
    fn bytes(self, of_peer: bool) -> Vec<u8> {
        pattern(self.honest, self.seed.wrapping_mul(2) + u64::from(of_peer))
    }
}

const PORTS: [u16; 2] = [0, common::GUEST];

/// Not a test, but the process that the others start.
#[test]
fn hostile_process() {
    let Ok(side) = std::env::var(SIDE) else {
        return;
    };
    let host = vchan_emulator::host_from_environment().unwrap();
    let seed = number(SEED, 1);
    // It is killed before that, unless its test was.
    let end = Instant::now() + Duration::from_secs(number(SECONDS, 5)) + 4 * LONG;
    let mut nth = 0;
    while Instant::now() < end {
        let round = Round::new(seed, nth);
        let mut random = Random::new(seed.rotate_left(17), nth);
        if round.style == Style::Honest {
            be_honest(&host, &side, round);
        } else {
            let Some(mut raw) = join(&host, &side, &mut random, end) else {
                return;
            };
            if exchange(&mut raw, round, &mut random) {
                for _ in 0..200 + random.below(6000) {
                    attack(&mut raw, round.style, &mut random);
                }
            }
            leave(raw, end);
        }
        nth += 1;
    }
}

fn join(host: &Host, side: &str, random: &mut Random, end: Instant) -> Option<RawPeer> {
    let peer = |nth: usize| DomId::new(PORTS[nth]).unwrap();
    if side == "server" {
        let (left, right) = random.pick(&[(10, 11), (11, 10), (12, 11), (10, 12), (13, 13)]);
        let geometry = Geometry::new(left, right).unwrap();
        let start = random.pick(&[0, 1, 0xFFFF_FF00, 0x7FFF_FFFF, u32::MAX]);
        let mut raw = RawPeer::serve(host, peer(0), geometry, start).unwrap();
        while !raw.connected() {
            if Instant::now() > end {
                return None;
            }
            thread::sleep(Duration::from_micros(100));
        }
        return Some(raw);
    }
    while Instant::now() < end {
        if let Ok(raw) = RawPeer::connect(host, peer(1)) {
            return Some(raw);
        }
        thread::sleep(Duration::from_micros(100));
    }
    None
}

/// Says goodbye and waits until the victim has left as well: a port that is free can be bound again,
/// and the next round would be played in the pages of this one.
fn leave(raw: RawPeer, end: Instant) {
    raw.control
        .store_byte(raw.side.live(), 0, Ordering::Release);
    let _ = raw.port.notify();
    while raw.port.is_bound().unwrap() != Some(false) && Instant::now() < end {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Moves the honest part both ways. False: the victim has gone.
fn exchange(raw: &mut RawPeer, round: Round, random: &mut Random) -> bool {
    let (ours, theirs) = (round.bytes(true), round.bytes(false));
    let (mut sent, mut received) = (0, Vec::new());
    let mut buffer = [0; 999];
    let since = Instant::now();
    while sent < ours.len() || received.len() < theirs.len() || !raw.all_was_read() {
        if round.style == Style::Harmless {
            attack(raw, round.style, random);
        }
        let len = (ours.len() - sent).min(1 + random.below(1500));
        sent += raw.produce(&ours[sent..sent + len]);
        // Not a byte more: what the victim writes later may be anything.
        let left = (theirs.len() - received.len()).min(buffer.len());
        let count = raw.consume(&mut buffer[..left]);
        received.extend_from_slice(&buffer[..count]);
        assert!(theirs.starts_with(&received), "the victim wrote nonsense");
        let live = raw.side.peer().live();
        if round.style != Style::Harmless && raw.control.load_byte(live, Ordering::Acquire) == 0 {
            return false;
        }
        assert!(
            since.elapsed() < LONG,
            "the victim does not go on: {round:?}"
        );
    }
    true
}

/// A client or a server that means no harm, once.
fn be_honest(host: &Host, side: &str, round: Round) {
    let connected = if side == "server" {
        let server = Server::builder(host, DomId::DOM0).bind();
        server.and_then(|mut server| server.accept_timeout(LONG))
    } else {
        Client::builder(host, guest()).timeout(LONG).connect()
    };
    // Its time may be over.
    let Ok(mut channel) = connected else { return };
    for timeout in [Channel::set_read_timeout, Channel::set_write_timeout] {
        timeout(&mut channel, Some(LONG));
    }
    let (mut reading, mut writing) = channel.into_split();
    thread::scope(|scope| {
        scope.spawn(|| std::io::Write::write_all(&mut writing, &round.bytes(true)).unwrap());
        let mut received = vec![0; round.honest];
        std::io::Read::read_exact(&mut reading, &mut received).unwrap();
        assert!(received == round.bytes(false), "the victim wrote nonsense");
    });
    // Until the victim has all of it and closes.
    let _ = writing.drain();
}

/// The hostile process, which ends with the test.
struct Hostile(Child);

impl Hostile {
    fn start(world: &World, side: Side, seed: u64) -> Hostile {
        let (name, domid) = match side {
            Side::Server => ("server", guest()),
            Side::Client => ("client", DomId::DOM0),
        };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hostile_process", "--nocapture"])
            .env(DOMAIN_VARIABLE, world.emulator.domain_directory(domid))
            .env(SIDE, name)
            .env(SEED, seed.to_string())
            .env_remove("VCHAN_MUTATION")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Hostile(child)
    }

    fn assert_alive(&mut self) {
        let ended = self.0.try_wait().unwrap();
        assert!(ended.is_none(), "the hostile process ended: {ended:?}");
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the rounds came to.
#[derive(Default, Debug)]
struct Tally {
    rounds: u64,
    honest: u64,
    faults: u64,
    calls: u64,
}

/// Says on failure how to repeat it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("repeat this with {SEED}={}", self.0);
        }
    }
}

/// Plays rounds until the time is over, with connections from `next`.
fn rounds(
    hostile: &mut Hostile,
    seed: u64,
    mut next: impl FnMut() -> Result<Channel, Error>,
) -> Tally {
    let end = Instant::now() + Duration::from_secs(number(SECONDS, 5));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut tally = Tally::default();
    // On a busy machine it goes on until something was shown.
    while Instant::now() < end || !tally.is_enough() && Instant::now() < end + LONG {
        hostile.assert_alive();
        let round = Round::new(seed, tally.rounds);
        let mut random = Random::new(seed.rotate_left(41), tally.rounds);
        let mode = random.pick(&[Mode::Blocking, Mode::Polling, Mode::Tokio, Mode::Threads]);
        tally.rounds += 1;
        let channel = match next() {
            Ok(channel) => channel,
            Err(Error::PeerFault(_)) if round.honest == 0 => {
                tally.faults += 1;
                continue;
            }
            Err(error) => panic!("no connection for {round:?}: {error}"),
        };
        let what = format!("{round:?} {mode:?}");
        let mut victim = Victim::new(channel, mode, &runtime, what);
        victim.exchange(&round.bytes(false), &round.bytes(true));
        if round.style == Style::Honest {
            victim.expect_the_end();
            tally.honest += 1;
        } else {
            for _ in 0..30 {
                if !victim.act(&mut random) {
                    break;
                }
            }
        }
        tally.calls += victim.calls();
        tally.faults += u64::from(victim.met_a_fault());
    }
    tally
}

impl Tally {
    fn is_enough(&self) -> bool {
        self.rounds >= 50 && self.faults >= 5 && self.honest >= 2
    }
}

fn check(tally: &Tally) {
    eprintln!("hostile peer: {tally:?}");
    assert!(tally.is_enough(), "hardly anything was tried: {tally:?}");
}

#[test]
fn fault_a_hostile_process_as_client_hurts_no_server() {
    let seed = Seed(number(SEED, 0x5EED));
    let world = World::new();
    let mut server = world
        .server()
        .read_size(1024)
        .write_size(4096)
        .bind()
        .unwrap();
    let mut hostile = Hostile::start(&world, Side::Client, seed.0);
    let tally = rounds(&mut hostile, seed.0, || server.accept_timeout(LONG));
    check(&tally);
    drop(hostile);
    // Whatever it left behind, the next client is served.
    loop {
        // It may have come once more before it ended.
        let offered = server.pending().map(|channel| channel.state());
        if matches!(offered, Ok(Ok(State::Waiting))) {
            break;
        }
        drop(server.accept_timeout(LONG));
    }
    let mut client = world.client();
    let mut channel = server.accept_timeout(LONG).unwrap();
    client.send(b"honest").unwrap();
    let mut word = [0; 6];
    channel.recv(&mut word).unwrap();
    assert_eq!(&word, b"honest");
    drop((client, channel, server));
    world.assert_clean();
}

#[test]
fn fault_a_hostile_process_as_server_hurts_no_client() {
    let seed = Seed(number(SEED, 0xBAD5EED));
    let world = World::new();
    let mut hostile = Hostile::start(&world, Side::Server, seed.0);
    let key = "/local/domain/2/data/vchan/ring-ref".parse().unwrap();
    let tally = rounds(&mut hostile, seed.0, || {
        let client = Client::builder(&world.dom0, guest())
            .timeout(LONG)
            .connect();
        // Until it has seen that we came, and taken the keys back: otherwise we could be gone before
        // that, and come back to the pages of a round that is over for us and not for it.
        wait_until(|| client.is_err() || world.dom0.store().read(&key).is_err());
        client
    });
    check(&tally);
    drop(hostile);
    // Keys that nobody stands behind any more stay: a killed server cannot remove them.
    let _ = world.guest.store().remove(&"data/vchan".parse().unwrap());
    let (mut channel, mut client) = world.pair(1024, 1024);
    channel.send(b"honest").unwrap();
    let mut word = [0; 6];
    client.recv(&mut word).unwrap();
    assert_eq!(&word, b"honest");
    drop((client, channel));
    world.assert_clean();
}
