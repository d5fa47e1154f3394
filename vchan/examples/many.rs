//! A thousand clients and one thread: a capitalising echo over epoll.
//!
//! A channel's descriptor means something after a call has answered `WouldBlock`, so each channel is
//! in one of two places: in the queue of those that may have something to do, or asleep, until epoll
//! finds its descriptor readable. Each in the queue gets one turn, a read and a write, and goes to its
//! end. So the channel of a client that never stops waits for all others after every turn, and those
//! that sleep cost nothing.
//!
//! Domain 2 serves, the clients are in domain 0. Here both live on an emulated host in this process.
//!
//!     cargo run -p vchan --example many

use std::collections::VecDeque;
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use vchan::{Channel, Client, DomId, Host, Server, State};
use vchan_emulator::Emulator;

const CLIENTS: usize = 1000;

/// The most bytes that one turn moves.
const TURN: usize = 512;

/// How often the host is asked whether the clients' domains are still there: a domain that is
/// destroyed sends no event.
const LOOK: Duration = Duration::from_secs(1);

/// Stands for the server itself among the numbers of its clients.
const SERVER: usize = usize::MAX;

/// A client's channel.
struct Peer {
    channel: Channel,
    /// What was read and is not yet written back.
    unsent: Vec<u8>,
    /// Whether it is in the queue.
    queued: bool,
}

/// What a turn came to.
enum Turn {
    /// There may be more to do.
    Again,
    /// Nothing to do until the descriptor says so.
    Asleep,
    /// The client has closed, or is lost.
    Over,
}

struct Echo {
    server: Server,
    epoll: OwnedFd,
    /// By their numbers; none where one has gone.
    peers: Vec<Option<Peer>>,
    queue: VecDeque<usize>,
    looked: Instant,
    /// The turns so far.
    turns: u64,
}

impl Echo {
    fn new(mut server: Server) -> Result<Echo, Box<dyn Error>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let pending = server.pending()?;
        epoll::add(&epoll, pending, number(SERVER), epoll::EventFlags::IN)?;
        Ok(Echo {
            server,
            epoll,
            peers: Vec::new(),
            queue: VecDeque::from([SERVER]),
            looked: Instant::now(),
            turns: 0,
        })
    }

    /// Gives each that may have something to do one turn; waits where there is none.
    fn round(&mut self) -> Result<(), Box<dyn Error>> {
        let wait = if self.queue.is_empty() {
            LOOK
        } else {
            Duration::ZERO
        };
        let event = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: number(SERVER),
        };
        let mut events = [event; 256];
        let found = match epoll::wait(&self.epoll, &mut events, Some(&Timespec::try_from(wait)?)) {
            // As when the program was stopped and goes on: the next round looks again.
            Err(Errno::INTR) => 0,
            found => found?,
        };
        for event in events.iter().take(found) {
            // A number of ours comes back as it was.
            self.enqueue(usize::try_from(event.data.u64()).unwrap_or(SERVER));
        }
        if self.looked.elapsed() >= LOOK {
            self.look();
        }
        for _ in 0..self.queue.len() {
            match self.queue.pop_front() {
                Some(SERVER) => self.accept()?,
                Some(nth) => self.turn(nth),
                None => {}
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, nth: usize) {
        match self.peers.get_mut(nth) {
            Some(Some(peer)) if !peer.queued => {
                peer.queued = true;
                self.queue.push_back(nth);
            }
            Some(_) => {}
            None if !self.queue.contains(&SERVER) => self.queue.push_back(SERVER),
            None => {}
        }
    }

    /// Takes the client that has come, if one has, and waits for the next.
    fn accept(&mut self) -> Result<(), Box<dyn Error>> {
        let accepted = match self.server.try_accept() {
            Err(vchan::Error::WouldBlock) => return Ok(()),
            // It came and broke the protocol: its channel is closed, and its descriptor with it.
            Err(vchan::Error::PeerFault(_)) => None,
            accepted => Some(accepted?),
        };
        let readable = epoll::EventFlags::IN;
        if let Some(mut channel) = accepted {
            channel.set_nonblocking(true);
            // Its descriptor was the server's until now.
            let nth = self.peers.len();
            epoll::modify(&self.epoll, channel.as_fd(), number(nth), readable)?;
            self.peers.push(Some(Peer {
                channel,
                unsent: Vec::new(),
                queued: true,
            }));
            self.queue.push_back(nth);
        }
        let pending = self.server.pending()?;
        epoll::add(&self.epoll, pending, number(SERVER), readable)?;
        self.queue.push_back(SERVER);
        Ok(())
    }

    fn turn(&mut self, nth: usize) {
        self.turns += 1;
        let Some(Some(peer)) = self.peers.get_mut(nth) else {
            return;
        };
        match peer.turn() {
            Turn::Again => self.queue.push_back(nth),
            Turn::Asleep => peer.queued = false,
            // Dropping it closes the descriptor, which leaves the epoll set by that.
            Turn::Over => self.peers[nth] = None,
        }
    }

    /// Calls up those whose client's domain is gone.
    fn look(&mut self) {
        self.looked = Instant::now();
        for nth in 0..self.peers.len() {
            if let Some(peer) = &self.peers[nth]
                && !matches!(peer.channel.probe(), Ok(State::Connected))
            {
                self.enqueue(nth);
            }
        }
    }

    /// How many clients are there.
    fn clients(&self) -> usize {
        self.peers.iter().flatten().count()
    }
}

impl Peer {
    /// One read and one write at most.
    fn turn(&mut self) -> Turn {
        if self.unsent.is_empty() {
            let mut buffer = [0; TURN];
            match self.channel.read(&mut buffer) {
                Ok(0) => return Turn::Over,
                Ok(count) => self.unsent.extend(buffer[..count].to_ascii_uppercase()),
                Err(vchan::Error::WouldBlock) => return Turn::Asleep,
                Err(_) => return Turn::Over,
            }
        }
        match self.channel.write(&self.unsent) {
            Ok(count) => _ = self.unsent.drain(..count),
            // It has asked for an event when there is space. Until then nothing is read, so a client
            // that reads nothing cannot make this side keep more than a turn's bytes.
            Err(vchan::Error::WouldBlock) => return Turn::Asleep,
            Err(_) => return Turn::Over,
        }
        Turn::Again
    }
}

fn number(nth: usize) -> epoll::EventData {
    epoll::EventData::new_u64(nth as u64)
}

fn connect(host: &Host, server: DomId) -> Result<Channel, vchan::Error> {
    Client::builder(host, server).connect()
}

/// Has all clients come, say something, and hear the answer.
fn talk(host: &Host, server: DomId) -> Result<(), vchan::Error> {
    let mut channels = (0..CLIENTS)
        .map(|_| connect(host, server))
        .collect::<Result<Vec<_>, _>>()?;
    for (nth, channel) in channels.iter_mut().enumerate() {
        channel.send(format!("client {nth:4}").as_bytes())?;
    }
    // The last first: nobody has to wait for anybody.
    for (nth, channel) in channels.iter_mut().enumerate().rev() {
        let mut answer = [0; 11];
        channel.recv(&mut answer)?;
        assert_eq!(answer, format!("CLIENT {nth:4}").as_bytes());
    }
    Ok(())
}

fn echo(emulator: &Emulator, guest: DomId) -> Result<Echo, Box<dyn Error>> {
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest)?;
    // The smallest rings: both lie in the one page that a channel needs in any case.
    let server = Server::builder(&emulator.host(guest)?, DomId::DOM0);
    Echo::new(server.read_size(1024).write_size(2048).bind()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (guest, emulator) = (DomId::new(2)?, Emulator::start()?);
    let mut echo = echo(&emulator, guest)?;
    let dom0 = emulator.host(DomId::DOM0)?;
    let clients = thread::spawn(move || talk(&dom0, guest));
    while !clients.is_finished() || echo.clients() > 0 {
        echo.round()?;
    }
    clients.join().map_err(|_| "a client panicked")??;
    println!("{CLIENTS} clients were answered in {} turns", echo.turns);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use vchan::host::{GrantRef, Port};
    use vchan::layout::Side;
    use vchan::memory::Access;

    use super::*;

    #[test]
    fn a_thousand_clients_are_answered_by_one_thread() {
        main().unwrap();
    }

    /// An echo and clients in this thread; everyone is asleep.
    fn quiet(count: usize) -> (Emulator, Echo, Vec<Channel>) {
        let (guest, emulator) = (DomId::new(2).unwrap(), Emulator::start().unwrap());
        let mut echo = echo(&emulator, guest).unwrap();
        let dom0 = emulator.host(DomId::DOM0).unwrap();
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(connect(&dom0, guest).unwrap());
            while echo.clients() < clients.len() {
                echo.round().unwrap();
            }
        }
        while !echo.queue.is_empty() {
            echo.round().unwrap();
        }
        for client in &mut clients {
            client.set_nonblocking(true);
        }
        (emulator, echo, clients)
    }

    #[test]
    fn one_that_never_stops_keeps_nobody_from_their_turn() {
        let (_emulator, mut echo, mut clients) = quiet(50);
        let (flooding, others) = clients.split_first_mut().unwrap();
        let mut flood = |rounds: u64| {
            for _ in 0..rounds {
                while flooding.write(&[b'x'; 1024]).is_ok() {}
                while flooding.read(&mut [0; 2048]).is_ok() {}
                echo.round().unwrap();
            }
            echo.turns
        };
        flood(10);
        for other in &mut *others {
            other.send(b"and I?").unwrap();
        }
        let (before, mut answer) = (flood(0), [0; 6]);
        // One to be found readable and served, and the turn in which nothing more is found.
        let turns = flood(2) - before;
        for other in others {
            other.recv(&mut answer).unwrap();
            assert_eq!(&answer, b"AND I?");
        }
        assert!(turns <= 2 + 2 * 49, "{turns}");
    }

    #[test]
    fn those_that_sleep_cost_nothing() {
        let turns_for_a_hundred = |clients| {
            let (_emulator, mut echo, mut clients) = quiet(clients);
            let before = echo.turns;
            for _ in 0..100 {
                clients[0].send(b"once more").unwrap();
                while clients[0].recv(&mut [0; 9]).is_err() {
                    echo.round().unwrap();
                }
                while !echo.queue.is_empty() {
                    echo.round().unwrap();
                }
            }
            echo.turns - before
        };
        assert_eq!(turns_for_a_hundred(1), turns_for_a_hundred(200));
    }

    #[test]
    fn one_that_breaks_the_protocol_as_it_comes_ends_nothing() {
        let (emulator, mut echo, _) = quiet(0);
        let (guest, dom0) = (DomId::new(2).unwrap(), emulator.host(DomId::DOM0).unwrap());
        let key = |name: &str| -> u32 {
            let path = format!("/local/domain/{guest}/data/vchan/{name}");
            let value = dom0.store().read(&path.parse().unwrap()).unwrap();
            str::from_utf8(&value).unwrap().parse().unwrap()
        };
        let (page, port) = (GrantRef(key("ring-ref")), Port(key("event-channel")));
        let page = dom0
            .grants()
            .map(guest, &[page], Access::ReadWrite, None)
            .unwrap();
        let port = dom0.events().bind_interdomain(guest, port).unwrap();
        page.store_byte(Side::Client.live(), 7, Ordering::Release);
        port.notify().unwrap();
        echo.round().unwrap();
        assert_eq!(echo.clients(), 0);

        let mut client = connect(&dom0, guest).unwrap();
        client.set_nonblocking(true);
        client.send(b"and I?").unwrap();
        let mut answer = [0; 6];
        while client.recv(&mut answer).is_err() {
            echo.round().unwrap();
        }
        assert_eq!(&answer, b"AND I?");
    }
}
