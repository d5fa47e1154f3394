//! A long run: random-size traffic through an echo, every byte compared, clients killed at random.
//!
//! `vchan-soak run` does it on an emulated host, with an echo server and its clients as processes of
//! their own; `vchan-soak clients` runs the clients alone, also against the echo guest on Xen;
//! `vchan-soak client` is one of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};
use vchan::{Client, DomId, Host, Server};
use vchan_emulator::{DOMAIN_VARIABLE, Emulator, host_from_environment};

/// Sends random-size traffic through an echo and compares every byte.
#[derive(Parser)]
enum Task {
    /// A whole soak on an emulated host: server, clients, random kills.
    Run(Soak),
    /// The clients of a soak, some of them killed, against an echo server that runs.
    Clients {
        /// The server's domain.
        domid: DomId,
        #[command(flatten)]
        soak: Soak,
    },
    /// One client of an echo server that capitalises.
    Client {
        /// The server's domain.
        domid: DomId,
        /// How many bytes to send.
        #[arg(long)]
        bytes: u64,
        /// Where the random numbers begin.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The echo server of a soak: clients from dom0, one after the other.
    Serve {
        /// The least size in bytes of both rings.
        #[arg(long, default_value_t = 65536)]
        ring: usize,
    },
}

/// How much, and by which clients.
#[derive(Args)]
struct Soak {
    /// How many GiB are to come back, in total.
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// The most GiB that one client has to do with.
    #[arg(long, default_value_t = 8.0)]
    client_gib: f64,
    /// Where the random numbers begin; the same seed gives the same sizes and kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The server's domain on the emulated host.
const GUEST: u16 = 2;
/// The most that one call moves.
const MOST: usize = 65536;
/// The stream repeats after this many bytes: a prime, so that no power of two hides a shift.
const PERIOD: usize = 1_048_573;
/// No wait on a peer that works takes that long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many bytes come back between two lines of a client's progress.
const STEP: u64 = 256 << 10;
/// How long nothing is said at most.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// How long a client whose time has come may live on.
const LAST_MILLISECONDS: u64 = 50;

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Run(soak) => run(&soak),
        Task::Clients { domid, soak } => clients_alone(domid, &soak),
        Task::Client { domid, bytes, seed } => client(domid, bytes, seed),
        Task::Serve { ring } => serve(ring),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vchan-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Small, fast and good enough to choose sizes: xorshift64.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }

    /// 1 to [`MOST`], small sizes as often as large ones.
    fn size(&mut self) -> usize {
        let most = 1 << (1 + self.below(MOST.ilog2().into()));
        usize::try_from(1 + self.below(most)).unwrap_or(1)
    }
}

/// The stream that a client sends: the same bytes again and again, twice in memory so that every
/// piece of up to [`MOST`] bytes is one slice.
struct Stream {
    bytes: Vec<u8>,
    at: usize,
}

impl Stream {
    fn new() -> Stream {
        let mut random = Random::new(7);
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| random.below(256).to_le_bytes()[0])
            .collect();
        bytes.extend_from_within(..MOST);
        Stream { bytes, at: 0 }
    }

    /// As it comes back.
    fn capitalised() -> Stream {
        let mut stream = Stream::new();
        stream.bytes.make_ascii_uppercase();
        stream
    }

    fn next(&mut self, len: usize) -> &[u8] {
        let piece = &self.bytes[self.at..self.at + len];
        self.at = (self.at + len) % PERIOD;
        piece
    }
}

fn client(domid: DomId, bytes: u64, seed: u64) -> Result<()> {
    let host = host_from_environment()?;
    let channel = Client::builder(&host, domid).timeout(PATIENCE).connect()?;
    let (mut reading, mut writing) = channel.into_split();
    reading.set_read_timeout(Some(PATIENCE));
    writing.set_write_timeout(Some(PATIENCE));
    let sender = thread::spawn(move || -> Result<()> {
        let (mut stream, mut random) = (Stream::new(), Random::new(seed));
        let mut left = bytes;
        while left > 0 {
            let size = random.size().min(usize::try_from(left).unwrap_or(MOST));
            writing.write_all(stream.next(size))?;
            left -= size as u64;
        }
        writing.drain()?;
        Ok(())
    });
    let (mut expected, mut random) = (Stream::capitalised(), Random::new(!seed));
    let (mut received, mut told) = (0, 0);
    let mut buffer = vec![0; MOST];
    while received < bytes {
        let size = random
            .size()
            .min(usize::try_from(bytes - received).unwrap_or(MOST));
        let count = reading.read(&mut buffer[..size])?;
        ensure!(
            count > 0,
            "the server closed after {received} of {bytes} bytes"
        );
        ensure!(
            buffer[..count] == *expected.next(count),
            "a byte between {received} and {} came back wrong",
            received + count as u64
        );
        received += count as u64;
        if received - told >= STEP || received == bytes {
            println!("{received}");
            told = received;
        }
    }
    match sender.join() {
        Ok(sent) => sent.context("sending"),
        Err(_) => bail!("the sending thread panicked"),
    }
}

fn serve(ring: usize) -> Result<()> {
    let host: Host = host_from_environment()?;
    let builder = Server::builder(&host, DomId::DOM0)
        .read_size(ring)
        .write_size(ring);
    let mut server = builder.bind()?;
    let mut buffer = vec![0; MOST];
    loop {
        let mut channel = server.accept()?;
        let mut echo = || -> Result<()> {
            loop {
                let count = Read::read(&mut channel, &mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                buffer[..count].make_ascii_uppercase();
                channel.write_all(&buffer[..count])?;
            }
        };
        // A client that was killed is what this is about.
        if let Err(error) = echo() {
            eprintln!("a client left: {error:#}");
        }
    }
}

/// Ends the process when dropped.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(soak: &Soak) -> Result<()> {
    let emulator = Emulator::start()?;
    let guest = DomId::new(GUEST)?;
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest)?;
    let own = std::env::current_exe()?;
    let in_domain = |domid| {
        let mut command = Command::new(&own);
        command.env(DOMAIN_VARIABLE, emulator.domain_directory(domid));
        command
    };
    let mut serve = in_domain(guest);
    let server = Ending(serve.arg("serve").stderr(Stdio::null()).spawn()?);
    let passed = clients(|| in_domain(DomId::DOM0), guest, soak)?;
    drop(server);
    // A server that was killed leaves its keys, as on Xen. Everything else of it must be gone.
    emulator
        .host(DomId::DOM0)?
        .store()
        .remove(&format!("/local/domain/{guest}/data/vchan").parse()?)?;
    emulator.assert_clean();
    println!("{passed}");
    Ok(())
}

fn clients_alone(domid: DomId, soak: &Soak) -> Result<()> {
    let own = std::env::current_exe()?;
    println!("{}", clients(|| Command::new(&own), domid, soak)?);
    Ok(())
}

/// Runs clients one after the other until all has come back; returns what there is to say then.
fn clients(own: impl Fn() -> Command, domid: DomId, soak: &Soak) -> Result<String> {
    let (wanted, most) = (bytes_of(soak.gib)?, bytes_of(soak.client_gib)?);
    let (mut random, since) = (Random::new(soak.seed), Instant::now());
    let (mut back, mut clients, mut killed) = (0u64, 0u64, 0u64);
    while back < wanted {
        clients += 1;
        let bytes = (wanted - back).min(1 + random.below(most));
        let kill = (random.below(2) == 0).then(|| Kill {
            after_bytes: random.below(bytes),
            after: Duration::from_millis(random.below(LAST_MILLISECONDS)),
        });
        let mut command = own();
        command
            .args(["client", &domid.to_string(), &format!("--bytes={bytes}")])
            .arg(format!("--seed={}", random.below(u64::MAX)))
            .stdout(Stdio::piped());
        let tell = |back: u64, killed: u64| {
            println!(
                "{:.3} GiB each way of {}, {clients} clients, {killed} of them killed, {:.0} s",
                back as f64 / f64::from(1u32 << 30),
                soak.gib,
                since.elapsed().as_secs_f64()
            );
        };
        let ended = one_client(command.spawn()?, kill, |count| tell(back + count, killed))
            .with_context(|| format!("client {clients} of the soak with seed {}", soak.seed))?;
        back += ended.received;
        killed += u64::from(ended.killed);
        ensure!(
            ended.killed || ended.received == bytes,
            "{} of {bytes} bytes",
            ended.received
        );
        tell(back, killed);
    }
    Ok(format!(
        "passed: {back} bytes each way, every one compared; {clients} clients, {killed} killed"
    ))
}

/// Whole GiB or not, a soak is a number of bytes.
fn bytes_of(gib: f64) -> Result<u64> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just here"
    )]
    let bytes = if (0.0..1e9).contains(&gib) {
        (gib * f64::from(1u32 << 30)) as u64
    } else {
        0
    };
    ensure!(bytes > 0, "a number of GiB is above 0 and below a billion");
    Ok(bytes)
}

/// When a client is killed: this long after it has told of so many bytes.
struct Kill {
    after_bytes: u64,
    after: Duration,
}

struct ClientEnded {
    received: u64,
    killed: bool,
}

/// Waits for a client, or kills it on the way. Meanwhile says now and then how many bytes it has
/// got back.
fn one_client(child: Child, kill: Option<Kill>, tell: impl Fn(u64)) -> Result<ClientEnded> {
    let mut child = Ending(child);
    let output = child
        .0
        .stdout
        .take()
        .context("the client has no standard output")?;
    let (sender, progress) = mpsc::channel();
    let reader = thread::spawn(move || -> Result<u64> {
        let mut last = 0;
        for line in BufReader::new(output).lines() {
            last = line?.parse()?;
            // Whoever waits for more no longer does when the kill came first.
            let _ = sender.send(last);
        }
        Ok(last)
    });
    let (mut received, mut told, mut end) = (0, Instant::now(), None);
    let killed = loop {
        if let Some(kill) = &kill
            // The first line comes after a step.
            && kill.after_bytes < received + STEP
        {
            end.get_or_insert_with(|| Instant::now() + kill.after);
        }
        let next = end.unwrap_or(told + BETWEEN_LINES);
        match progress.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(count) => received = count,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
        }
        if end.is_some_and(|end| end <= Instant::now()) {
            break true;
        }
        if told.elapsed() >= BETWEEN_LINES {
            tell(received);
            told = Instant::now();
        }
    };
    if killed {
        child.0.kill()?;
    }
    let status = child.0.wait()?;
    let received = match reader.join() {
        Ok(received) => received?,
        Err(_) => bail!("the reading thread panicked"),
    };
    ensure!(
        killed || status.success(),
        "the client failed ({status}): see above"
    );
    Ok(ClientEnded { received, killed })
}
