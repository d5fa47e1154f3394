//! Stands between a domain and its XenStore, and counts.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Requests that come within this time of each other, before any of them has an answer, were sent
/// together: who waits for an answer sends nothing more.
const TOGETHER: Duration = Duration::from_millis(50);

/// `XS_TRANSACTION_START` and `XS_WATCH_EVENT` of `xs_wire.h`.
const TRANSACTION_START: u32 = 6;
const WATCH_EVENT: u32 = 15;

/// A directory by which the same domain is joined, with its XenStore behind this.
pub struct Relay {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

/// What has passed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// How often a request had to wait for an answer: requests that are sent together are one.
    pub round_trips: u64,
    /// How many transactions were begun.
    pub transactions: u64,
}

#[derive(Default)]
struct State {
    seen: Seen,
    /// Requests were sent, and no answer has come since.
    asked: bool,
}

impl Relay {
    /// Before the XenStore of the domain whose directory is `behind`.
    pub fn start(behind: &Path) -> io::Result<Relay> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("vchan-relay-{}-{nth}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        symlink(behind.join("control"), directory.join("control"))?;
        let listener = UnixListener::bind(directory.join("xenstored"))?;
        let state = Arc::new(Mutex::new(State::default()));
        let (store, ours) = (behind.join("xenstored"), Arc::clone(&state));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&store) else {
                    return;
                };
                pass_both_ways(client, server, &ours);
            }
        });
        Ok(Relay { directory, state })
    }

    /// Join this, instead of the domain's own directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What has passed so far.
    pub fn seen(&self) -> Seen {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .seen
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn pass_both_ways(client: UnixStream, server: UnixStream, state: &Arc<Mutex<State>>) {
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let counting = |count: fn(&mut State, u32)| {
        let state = Arc::clone(state);
        move |kind| {
            count(
                &mut state.lock().unwrap_or_else(PoisonError::into_inner),
                kind,
            )
        }
    };
    let request = counting(|state, kind| {
        state.seen.round_trips += u64::from(!state.asked);
        state.seen.transactions += u64::from(kind == TRANSACTION_START);
        state.asked = true;
    });
    let answer = counting(|state, kind| state.asked &= kind == WATCH_EVENT);
    thread::spawn(move || pass(from_client, server, Some(TOGETHER), request));
    thread::spawn(move || pass(from_server, client, None, answer));
}

/// Passes messages on until one end closes; `count` learns the type of each before it goes on. With
/// `together`, what comes within that time goes on at once.
fn pass(mut from: UnixStream, mut to: UnixStream, together: Option<Duration>, count: impl Fn(u32)) {
    let mut messages = Vec::new();
    while let Ok(kind) = read(&mut from, &mut messages) {
        count(kind);
        if let Some(time) = together {
            thread::sleep(time);
            if is_readable(&from) {
                continue;
            }
        }
        if to.write_all(&messages).is_err() {
            break;
        }
        messages.clear();
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Appends one message to `messages` and gives its type.
fn read(from: &mut UnixStream, messages: &mut Vec<u8>) -> io::Result<u32> {
    let mut header = [[0; 4]; 4];
    from.read_exact(header.as_flattened_mut())?;
    let [kind, _, _, len] = header.map(u32::from_le_bytes);
    messages.extend_from_slice(header.as_flattened());
    from.take(len.into()).read_to_end(messages)?;
    Ok(kind)
}

fn is_readable(stream: &UnixStream) -> bool {
    let mut descriptors = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut descriptors, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
