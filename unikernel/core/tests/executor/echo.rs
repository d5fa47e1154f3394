//! The echo in tasks: several places at once, and one for which there is no memory for a while.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vchan::{DomId, Server};
use vchan_emulator::Limits;
use vchan_emulator::faults::{Log, Verdict, gated};

use crate::world::World;

/// Counts the offers that an echo tells of.
struct Offers(Arc<AtomicUsize>);

impl echo_guest::Console for Offers {
    fn print(&mut self, text: std::fmt::Arguments<'_>) {
        let is_offer = text.to_string().ends_with("Initialization done!\n");
        self.0.fetch_add(usize::from(is_offer), Ordering::SeqCst);
    }

    fn note(&mut self, _: std::fmt::Arguments<'_>) {}
}

#[test]
fn the_echo_serves_several_places_at_once_and_each_again() {
    const PLACES: usize = 6;
    const ROUNDS: usize = 3;
    let offers = Arc::new(AtomicUsize::new(0));
    let world = World::of_one_domain();
    let path = |n: usize| format!("data/vchan/0/echo{n}").parse().unwrap();
    for n in 0..PLACES {
        let server = world.server(1024).path(path(n)).bind().unwrap();
        let runtime = world.runtime.clone();
        let mut console = Offers(Arc::clone(&offers));
        world.executor.spawn(async move {
            let Err(error) = echo_guest::serve_on(server, &runtime, &mut console).await;
            panic!("{error}");
        });
    }
    let barrier = Arc::new(std::sync::Barrier::new(PLACES));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..PLACES)
        .map(|n| {
            let (client, barrier) = (world.client().path(path(n)), Arc::clone(&barrier));
            let done = Arc::clone(&done);
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    let mut channel = client.clone().connect().unwrap();
                    // All are connected at the same time.
                    barrier.wait();
                    let said = format!("place {n}, round {round}: \u{e4}\n");
                    std::io::Write::write_all(&mut channel, said.as_bytes()).unwrap();
                    let mut answer = vec![0; said.len()];
                    std::io::Read::read_exact(&mut channel, &mut answer).unwrap();
                    assert_eq!(answer, said.to_ascii_uppercase().as_bytes());
                }
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    world.run(async {
        // Until all are on offer again: a server that is dropped while it publishes leaves its
        // directory.
        let all = PLACES * (ROUNDS + 1);
        while done.load(Ordering::SeqCst) < PLACES || offers.load(Ordering::SeqCst) < all {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    for client in clients {
        client.join().unwrap();
    }
    world.assert_clean();
}

/// What an echo notes.
#[derive(Clone, Default, Debug)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn of(&self, words: &str) -> Vec<String> {
        let notes = self.0.lock().unwrap();
        let found = notes.iter().filter(|note| note.contains(words));
        found.cloned().collect()
    }
}

impl echo_guest::Console for Notes {
    fn print(&mut self, _: std::fmt::Arguments<'_>) {}

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.lock().unwrap().push(line.to_string());
    }
}

#[test]
fn a_place_for_which_there_is_no_memory_is_offered_again_when_there_is() {
    let world = World::of_one_domain();
    let calls = Log::default();
    let noted = calls.clone();
    let host = gated(&world.guest, move |call| {
        noted.note(call);
        Verdict::Pass
    });
    let shares = move || calls.count("share");
    let server = Server::builder(&host, DomId::DOM0)
        .read_size(1024)
        .write_size(1024)
        .bind()
        .unwrap();
    assert_eq!(shares(), 1, "an offer is a page");
    let mut limits = Limits::default();
    limits.granted_pages = 1;
    world.emulator.set_limits(limits);
    let (notes, runtime) = (Notes::default(), world.runtime.clone());
    let mut console = notes.clone();
    world.executor.spawn(async move {
        let Err(error) = echo_guest::serve_on(server, &runtime, &mut console).await;
        panic!("{error}");
    });
    let echoed = |channel: &mut vchan::Channel| {
        std::io::Write::write_all(channel, b"still here?").unwrap();
        let mut answer = [0; 11];
        std::io::Read::read_exact(channel, &mut answer).unwrap();
        assert_eq!(&answer, b"STILL HERE?");
    };
    let client = world.client();
    let gone = thread::spawn(move || {
        let mut channel = client.connect().unwrap();
        echoed(&mut channel);
        // Over for the server, and yet the page stays mapped.
        channel.shutdown();
        channel
    });
    let since = Instant::now();
    world.run(async {
        while shares() < 4 {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    // Three tries, with a pause after each.
    assert!(since.elapsed() >= Duration::from_secs(2), "a busy loop");
    assert_eq!(notes.of("trying again").len(), 1, "{notes:?}");

    drop(gone.join().unwrap());
    let client = world.client();
    let next = thread::spawn(move || {
        let mut channel = client.connect().unwrap();
        echoed(&mut channel);
        channel
    });
    world.run(async {
        while !next.is_finished() {
            world.runtime.sleep(Duration::from_millis(5)).await;
        }
    });
    // It has not closed yet: when it does, it may let go a little late as well.
    let _connected = next.join().unwrap();
    assert_eq!(notes.of("on offer again").len(), 1, "{notes:?}");
    assert_eq!(notes.of("trying again").len(), 1, "{notes:?}");
}
