//! Two ends, each of either library, on an emulated host of their own.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vchan::host::GrantRef;
use vchan::layout::{CLIENT_NOTIFY, Ring, SERVER_NOTIFY, Side};
use vchan::memory::{PAGE_SIZE, Region};
use vchan::{DomId, Host, StorePath};
use vchan_emulator::Emulator;
use vchan_tests::driver::Driver;

use crate::sequence::{Leave, Sequence, Step};

/// What the host must clean up after a process within: far more than it takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Whose library an end uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Library {
    C,
    Ours,
}

/// Server and client.
pub(crate) type Libraries = [Library; 2];

/// The first is the one that the others are compared with.
pub(crate) const PAIRINGS: [Libraries; 4] = [
    [Library::C, Library::C],
    [Library::Ours, Library::C],
    [Library::C, Library::Ours],
    [Library::Ours, Library::Ours],
];

/// The fields of the control page that change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Of the left and the right ring, counted from the first index.
    pub(crate) cons: [u32; 2],
    pub(crate) prod: [u32; 2],
    /// Of server and client.
    pub(crate) live: [u8; 2],
    /// What the server and the client have been asked to tell.
    pub(crate) asked: [u8; 2],
}

impl Header {
    /// Bytes in a ring.
    pub(crate) fn used(&self, ring: Ring) -> usize {
        let ring = ring as usize;
        self.prod[ring].wrapping_sub(self.cons[ring]) as usize
    }
}

/// What one step did.
pub(crate) struct Seen {
    /// What the call returned. Nothing for an end that died.
    pub(crate) answer: String,
    pub(crate) before: Header,
    pub(crate) after: Header,
    /// Whether the other end, where there is one, has an event pending now. Those of a C end were
    /// taken before, so for it this is an event of this step.
    pub(crate) event: Option<bool>,
}

pub(crate) struct Pairing {
    pub(crate) libraries: Libraries,
    emulator: Emulator,
    dom0: Host,
    /// Running processes, whether they have a channel or not.
    processes: [Option<Driver>; 2],
    /// Who has one.
    open: [bool; 2],
    was_connected: bool,
    page: Option<Region>,
    /// All of the page's head but the header's changing fields, as the server shared it.
    constant: Vec<u8>,
    first_index: u32,
}

/// Where each side lives.
fn domain(side: Side) -> DomId {
    DomId::new(match side {
        Side::Server => 2,
        Side::Client => 3,
    })
    .unwrap()
}

fn key(name: &str) -> StorePath {
    let path = format!("/local/domain/{}/data/vchan{name}", domain(Side::Server));
    path.parse().unwrap()
}

impl Pairing {
    pub(crate) fn new(libraries: Libraries) -> Pairing {
        let emulator = Emulator::start().unwrap();
        for domid in [DomId::DOM0, domain(Side::Server), domain(Side::Client)] {
            emulator.add_domain(domid).unwrap();
        }
        let dom0 = emulator.host(DomId::DOM0).unwrap();
        Pairing {
            libraries,
            emulator,
            dom0,
            processes: [None, None],
            open: [false, false],
            was_connected: false,
            page: None,
            constant: Vec::new(),
            first_index: 0,
        }
    }

    /// Begins a sequence: processes run, the server has published its page.
    pub(crate) fn begin(&mut self, sequence: &Sequence) -> Result<(), String> {
        for side in [Side::Server, Side::Client] {
            let process = &mut self.processes[side as usize];
            if process.is_none() {
                *process = Some(match self.libraries[side as usize] {
                    Library::C => Driver::start(&self.emulator, domain(side))
                        .ok_or("the C library has vanished")?,
                    Library::Ours => {
                        let program = Path::new(env!("CARGO_BIN_EXE_rust-driver"));
                        Driver::start_program(program, &self.emulator, domain(side))
                    }
                });
            }
            let seed = sequence.outgoing_seed(side);
            self.run(side, &format!("seed {seed}"))?;
        }
        let (left, right) = sequence.orders;
        let serve = format!(
            "server {} data/vchan {} {}",
            domain(Side::Client),
            1 << left,
            1 << right
        );
        self.run(Side::Server, &serve)?;
        self.open = [true, false];
        self.was_connected = false;

        let ring_ref = self.dom0.store().read(&key("/ring-ref"));
        let ring_ref = String::from_utf8(ring_ref.map_err(|error| error.to_string())?);
        let ring_ref = GrantRef(ring_ref.unwrap().parse().unwrap());
        let page = self
            .emulator
            .raw_page(domain(Side::Server), ring_ref)
            .map_err(|error| error.to_string())?;
        self.first_index = match self.libraries[0] {
            Library::C => sequence.first_index,
            Library::Ours => 0,
        };
        if self.first_index != 0 {
            for ring in [Ring::Left, Ring::Right] {
                page.store_index(ring.cons(), self.first_index, Ordering::Relaxed);
                page.store_index(ring.prod(), self.first_index, Ordering::Relaxed);
            }
        }
        self.constant = constant(&page);
        self.page = Some(page);
        Ok(())
    }

    /// The page now.
    pub(crate) fn header(&self) -> Header {
        let page = self.page.as_ref().expect("a sequence has begun");
        let index = |offset| {
            page.load_index(offset, Ordering::Acquire)
                .wrapping_sub(self.first_index)
        };
        let byte = |offset| page.load_byte(offset, Ordering::Acquire);
        let rings = [Ring::Left, Ring::Right];
        Header {
            cons: rings.map(|ring| index(ring.cons())),
            prod: rings.map(|ring| index(ring.prod())),
            live: [Side::Server, Side::Client].map(|side| byte(side.live())),
            asked: [byte(SERVER_NOTIFY), byte(CLIENT_NOTIFY)],
        }
    }

    /// Takes one step; `None` where it does not apply.
    pub(crate) fn take(&mut self, step: Step) -> Result<Option<Seen>, String> {
        let applies = match step {
            Step::Connect => self.open == [true, false] && !self.was_connected,
            Step::Call(..) | Step::Leave(..) => self.open[step.side() as usize],
        };
        if !applies {
            return Ok(None);
        }
        let before = self.header();
        let side = step.side();
        let answer = match step {
            Step::Connect => {
                let server = domain(Side::Server);
                let connect = format!("client {server} /local/domain/{server}/data/vchan");
                self.run(Side::Client, &connect)?;
                self.open = [true, true];
                self.was_connected = true;
                "ok".to_owned()
            }
            Step::Call(_, call) => self.ask(side, &call.to_string())?,
            Step::Leave(_, leave) => {
                self.leave(side, leave)?;
                String::new()
            }
        };
        let after = self.header();
        // That of a process that died is the host's to send.
        let surely = matches!(step, Step::Leave(_, Leave::Exit | Leave::Kill));
        let event = self.event_of(side.peer(), surely)?;
        if step == Step::Connect {
            // Who binds gets an event of that.
            self.event_of(Side::Client, false)?;
            if self.libraries[0] == Library::Ours {
                self.run(Side::Server, "accept")?;
            }
        }
        let page = self.page.as_ref().expect("a sequence has begun");
        if constant(page) != self.constant {
            return Err("a constant field of the control page has changed".to_owned());
        }
        Ok(Some(Seen {
            answer,
            before,
            after,
            event,
        }))
    }

    fn leave(&mut self, side: Side, leave: Leave) -> Result<(), String> {
        self.open[side as usize] = false;
        match leave {
            Leave::Close => return self.run(side, "close"),
            Leave::Exit | Leave::Kill => {}
        }
        if let Some(process) = self.processes[side as usize].take() {
            match leave {
                Leave::Kill => process.kill(),
                _ => process.exit_without_close(),
            }
        }
        // The host clears the byte once it has noticed.
        let limit = Instant::now() + LIMIT;
        while self.header().live[side as usize] != 0 {
            if Instant::now() > limit {
                return Err("the live byte of a dead process stays".to_owned());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Whether `side` has an event pending; takes it where that can be done from outside.
    fn event_of(&mut self, side: Side, surely: bool) -> Result<Option<bool>, String> {
        if !self.open[side as usize] {
            return Ok(None);
        }
        let poll = if surely { "poll 20000" } else { "poll 0" };
        let pending = self.ask(side, poll)? == "1";
        if pending && self.libraries[side as usize] == Library::C {
            // One read of the descriptor, and unmasking.
            let waited = self.ask(side, "wait")?;
            if waited != "0" {
                return Err(format!("libxenvchan_wait returned {waited}"));
            }
        }
        Ok(Some(pending))
    }

    /// Ends a sequence wherever it stands. Nothing is left then.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        for side in [Side::Client, Side::Server] {
            if std::mem::take(&mut self.open[side as usize]) {
                self.run(side, "close")?;
            }
        }
        self.page = None;
        // A server that died has left its keys.
        let _ = self.dom0.store().remove(&key(""));
        let leftovers = || self.emulator.leftovers();
        let limit = Instant::now() + LIMIT;
        while !leftovers().is_empty() {
            if Instant::now() > limit {
                return Err(format!("left on the host: {}", leftovers().join("; ")));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    fn run(&mut self, side: Side, command: &str) -> Result<(), String> {
        match self.ask(side, command)?.as_str() {
            "ok" => Ok(()),
            answer => Err(format!("{side:?}: {command}: {answer}")),
        }
    }

    fn ask(&mut self, side: Side, command: &str) -> Result<String, String> {
        let process = self.processes[side as usize].as_mut();
        process
            .ok_or_else(|| "the process is gone".to_owned())?
            .try_ask(command)
            .map_err(|why| format!("{side:?}: {command}: {why}"))
    }
}

/// Orders and grant references: what nobody changes once it is shared.
fn constant(page: &Region) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    page.copy_out(0, &mut bytes);
    // A ring may begin at 1024.
    bytes.truncate(1024);
    bytes.drain(20..24);
    bytes.drain(..16);
    bytes
}
