//! Debian's unmodified C library as the peer, on the emulated host.
//!
//! The C side is `tests/c/driver.c` in a process of its own, in domain 2; ours is this process, in
//! domain 0. Without the C library the tests are skipped, see [`vchan_tests::c_library`].

mod closing;
mod echo;
mod handshake;
mod orders;
mod transfer;
mod waiting;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use vchan::host::GrantRef;
use vchan::memory::{PAGE_SIZE, Region};
use vchan::{Channel, Client, DomId, Host, ReadHalf, Server, StorePath, WriteHalf};
use vchan_emulator::Emulator;
use vchan_tests::driver::Driver;

/// What every wait of ours must end within: far more than any takes.
const LIMIT: Duration = Duration::from_secs(60);

/// The domain of the C library, as in the seed's session.
fn c_domain() -> DomId {
    DomId::new(2).unwrap()
}

/// An emulated host with a C process in domain 2, and ourselves in domain 0.
struct World {
    emulator: Emulator,
    c: Driver,
    ours: Host,
}

impl World {
    /// `None`, having said so, where there is no C library.
    fn new() -> Option<World> {
        let emulator = Emulator::start().unwrap();
        for domid in [DomId::DOM0, c_domain()] {
            emulator.add_domain(domid).unwrap();
        }
        let c = Driver::start(&emulator, c_domain())?;
        let ours = emulator.host(DomId::DOM0).unwrap();
        Some(World { emulator, c, ours })
    }

    /// Makes C serve us, with rings of these sizes.
    #[track_caller]
    fn c_serves(&mut self, read_min: usize, write_min: usize) {
        self.c
            .run(&format!("server 0 data/vchan {read_min} {write_min}"));
    }

    /// Connects us to the C server.
    #[track_caller]
    fn connect(&self) -> Channel {
        let client = Client::builder(&self.ours, c_domain()).timeout(LIMIT);
        bounded(client.connect().unwrap())
    }

    /// A C server and our channel to it.
    #[track_caller]
    fn c_server(read_min: usize, write_min: usize) -> Option<(World, Channel)> {
        let mut world = World::new()?;
        world.c_serves(read_min, write_min);
        let channel = world.connect();
        Some((world, channel))
    }

    /// Makes us serve C, with rings of these sizes.
    #[track_caller]
    fn serve(&self, read_min: usize, write_min: usize) -> Server {
        let server = Server::builder(&self.ours, c_domain());
        server
            .read_size(read_min)
            .write_size(write_min)
            .bind()
            .unwrap()
    }

    /// Connects C to our server.
    #[track_caller]
    fn c_connects(&mut self) {
        self.c.run("client 0 /local/domain/0/data/vchan");
    }

    /// A C client and our channel to it.
    #[track_caller]
    fn c_client(read_min: usize, write_min: usize) -> Option<(World, Channel)> {
        let mut world = World::new()?;
        let mut server = world.serve(read_min, write_min);
        world.c_connects();
        let channel = accept(&mut server);
        Some((world, channel))
    }

    /// What a key of the server in `domid` holds.
    #[track_caller]
    fn key(&self, domid: DomId, key: &str) -> u32 {
        let value = self.ours.store().read(&key_path(domid, key)).unwrap();
        String::from_utf8(value).unwrap().parse().unwrap()
    }

    /// The control page that the server in `domid` shares.
    #[track_caller]
    fn control_page(&self, domid: DomId) -> Vec<u8> {
        let ring_ref = GrantRef(self.key(domid, "ring-ref"));
        bytes(&self.emulator.raw_page(domid, ring_ref).unwrap())
    }

    /// Nothing may be left behind, neither while the processes still run nor once they ended.
    #[track_caller]
    fn assert_clean(self) {
        let World { emulator, c, ours } = self;
        emulator.assert_clean();
        drop((c, ours));
        emulator.assert_clean();
    }
}

fn key_path(domid: DomId, key: &str) -> StorePath {
    format!("/local/domain/{domid}/data/vchan/{key}")
        .parse()
        .unwrap()
}

fn bytes(page: &Region) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    page.copy_out(0, &mut bytes);
    bytes
}

/// The client that our server waits for.
#[track_caller]
fn accept(server: &mut Server) -> Channel {
    bounded(server.accept_timeout(LIMIT).unwrap())
}

/// A channel on which no call waits longer than [`LIMIT`].
fn bounded(mut channel: Channel) -> Channel {
    channel.set_read_timeout(Some(LIMIT));
    channel.set_write_timeout(Some(LIMIT));
    channel
}

/// How bytes are cut into calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Stream,
    Datagram,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Stream => "stream",
            Mode::Datagram => "datagram",
        }
    }
}

/// Writes `out` and reads `expect` bytes at the same time, in calls of at most `chunk` bytes.
#[track_caller]
fn exchange(
    (reader, writer): &mut (ReadHalf, WriteHalf),
    out: &[u8],
    expect: usize,
    chunk: usize,
    mode: Mode,
) -> Vec<u8> {
    let mut read = vec![0; expect];
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in out.chunks(chunk) {
                match mode {
                    Mode::Stream => writer.write_all(piece).unwrap(),
                    Mode::Datagram => writer.send(piece).unwrap(),
                }
            }
        });
        for piece in read.chunks_mut(chunk) {
            match mode {
                Mode::Stream => reader.read_exact(piece).unwrap(),
                Mode::Datagram => reader.recv(piece).unwrap(),
            }
        }
    });
    read
}
