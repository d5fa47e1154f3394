//! The client over a wire of bytes, against a store in the same thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Wake, Waker};

use super::*;
use crate::host::{Store, Time};
use crate::xenstore::codec::{self, HEADER_SIZE};
use crate::xenstore::{Wire, WireClient};
use crate::{HostError, StoreErrorKind};

/// A wire that the store at its other end works whenever the client sleeps. Its clock moves only
/// then.
#[derive(Clone, Default)]
struct Line {
    state: Arc<Mutex<LineState>>,
}

#[derive(Default)]
struct LineState {
    to_store: Decoder,
    from_store: VecDeque<u8>,
    /// What the store does with the next requests.
    script: VecDeque<Step>,
    /// Every request that came, also those that no step was there for.
    requests: Vec<Message>,
    /// How many bytes go at a time; 0 for as many as there are.
    grain: usize,
    /// With a grain: the store has to work before more is taken.
    is_full: bool,
    broken: bool,
    beginnings: usize,
    now: Duration,
}

type Step = std::boxed::Box<dyn FnOnce(&Message, &mut LineState) + Send>;

impl LineState {
    fn send(&mut self, message: &Message) {
        self.from_store.extend(message.encode().unwrap());
    }

    fn answer(&mut self) {
        while let Some(request) = self.to_store.next_message().unwrap() {
            self.requests.push(request.clone());
            if let Some(step) = self.script.pop_front() {
                step(&request, self);
            }
        }
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap()
    }

    /// A client of a store that does `steps`, one a request.
    fn client(&self) -> WireClient<Line> {
        WireClient::new(self.clone()).with_time_limit(PATIENCE)
    }

    fn then(&self, step: impl FnOnce(&Message, &mut LineState) + Send + 'static) {
        self.state().script.push_back(std::boxed::Box::new(step));
    }

    fn reply(&self, payload: &'static [u8]) {
        self.then(|request, line| line.send(&request.reply(payload.to_vec())));
    }
}

impl Wire for Line {
    fn receive(&self, to: &mut [u8]) -> Result<usize, HostError> {
        let mut state = self.state();
        if state.broken {
            return Err(HostError::new("read").because("the wire is cut"));
        }
        let grain = match state.grain {
            0 => to.len(),
            grain => grain.min(to.len()),
        };
        let count = grain.min(state.from_store.len());
        for (to, byte) in to.iter_mut().zip(state.from_store.drain(..count)) {
            *to = byte;
        }
        Ok(count)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, HostError> {
        let mut state = self.state();
        if state.broken {
            return Err(HostError::new("write").because("the wire is cut"));
        }
        let grain = state.grain;
        let count = match grain {
            0 => bytes.len(),
            // No room until the store has worked.
            _ if std::mem::replace(&mut state.is_full, true) => 0,
            grain => grain.min(bytes.len()),
        };
        state.to_store.push(&bytes[..count]);
        state.answer();
        Ok(count)
    }

    fn wait(&self, deadline: Option<Time>) -> Result<(), HostError> {
        let mut state = self.state();
        if !state.from_store.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut state.is_full) {
            return Ok(());
        }
        let Some(Time(deadline)) = deadline else {
            panic!("a sleep that nothing ends");
        };
        state.now = state.now.max(deadline);
        Ok(())
    }

    fn reconnect(&self, _deadline: Time) -> Result<(), HostError> {
        let mut state = self.state();
        if state.beginnings == 1 {
            return Err(HostError::new("connect").because("only once"));
        }
        state.beginnings += 1;
        state.broken = false;
        (state.to_store, state.from_store) = (Decoder::new(), VecDeque::new());
        Ok(())
    }

    fn now(&self) -> Time {
        Time(self.state().now)
    }
}

#[test]
fn requests_and_answers_in_any_pieces() {
    for grain in [0, 1, 3, 15, 16, 17, 1000] {
        let line = Line::default();
        line.state().grain = grain;
        let client = line.client();
        line.reply(b"value");
        line.reply(b"OK\0");
        line.reply(b"a\0bc\0");
        line.then(|request, line| line.send(&request.error_reply("ENOENT")));
        line.reply(b"n0\0r7\0");
        line.reply(b"T\0");
        assert_eq!(client.read(&path("data/x")).unwrap(), b"value");
        client.write(&path("data/x"), b"\0\xFF").unwrap();
        assert_eq!(client.directory(&path("data")).unwrap(), ["a", "bc"]);
        client.remove(&path("data/x")).unwrap();
        let permissions = client.permissions(&path("data/x")).unwrap();
        assert_eq!(codec::permission_strings(&permissions), ["n0", "r7"]);
        assert!(client.is_domain_introduced(crate::DomId::DOM0).unwrap());
        let kinds: Vec<Kind> = line.state().requests.iter().map(|m| m.kind).collect();
        let asked = [
            Kind::READ,
            Kind::WRITE,
            Kind::DIRECTORY,
            Kind::RM,
            Kind::GET_PERMS,
            Kind::IS_DOMAIN_INTRODUCED,
        ];
        assert_eq!(kinds, asked);
    }
}

#[test]
fn a_store_that_is_silent_ends_a_request_at_its_limit_and_its_late_answer_is_nobodys() {
    let line = Line::default();
    let client = line.client();
    line.then(|_, _| {});
    let error = client.read(&path("data/x")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::TimedOut);
    assert_eq!(line.now(), Time(PATIENCE));
    line.then(|request, line| {
        let late = line.requests[0].reply(b"late".to_vec());
        line.send(&late);
        line.send(&request.reply(b"now".to_vec()));
    });
    assert_eq!(client.read(&path("data/y")).unwrap(), b"now");
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn a_watch_fires_for_a_wait_for_a_look_and_for_a_task() {
    let line = Line::default();
    let client = line.client();
    line.then(|request, line| {
        line.send(&request.reply(b"OK\0".to_vec()));
        line.send(&watch_event(request));
    });
    let watch = client.watch(&path("data/x")).unwrap();
    assert!(watch.wait(None).unwrap(), "it fires once when it is set");
    assert!(!watch.take().unwrap());
    let soon = line.now().after(Duration::from_secs(1));
    assert!(!watch.wait(Some(soon)).unwrap());
    assert_eq!(line.now(), soon);

    let woken = Arc::new(Woken::default());
    watch.register(&Waker::from(Arc::clone(&woken)));
    line.then(|request, line| {
        let event = watch_event(&line.requests[0]);
        line.send(&event);
        line.send(&event);
        line.send(&request.reply(b"".to_vec()));
    });
    client.read(&path("data/y")).unwrap();
    assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst));
    assert!(watch.take().unwrap(), "two changes are one event");
    assert!(!watch.take().unwrap());
    drop(watch);
    assert_eq!(line.state().requests.last().unwrap().kind, Kind::UNWATCH);
}

#[test]
fn a_session_that_broke_ends_its_watches_and_the_next_request_begins_a_new_one() {
    let line = Line::default();
    let client = line.client();
    line.reply(b"OK\0");
    let watch = client.watch(&path("data/x")).unwrap();
    line.state().broken = true;
    let error = watch.take().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);

    line.reply(b"again");
    assert_eq!(client.read(&path("data/x")).unwrap(), b"again");
    assert_eq!(line.state().beginnings, 1);
    // The old watch takes nothing of what is the new session's.
    line.then(|request, line| {
        line.send(&request.reply(b"OK\0".to_vec()));
        line.send(&watch_event(request));
    });
    let anew = client.watch(&path("data/x")).unwrap();
    assert!(anew.take().unwrap());
    let event = watch_event(line.state().requests.last().unwrap());
    line.state().send(&event);
    watch.take().unwrap_err();
    let before = line.state().requests.len();
    drop(watch);
    assert_eq!(line.state().requests.len(), before, "its store forgot it");
    assert!(anew.take().unwrap());

    // A wire that cannot begin anew.
    line.state().broken = true;
    for _ in 0..2 {
        let error = client.read(&path("data/x")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unreachable);
        assert!(error.to_string().contains("only once"), "{error}");
    }
}

#[test]
fn a_store_that_talks_nonsense_is_given_up() {
    let nonsense: [fn(&Message) -> Vec<u8>; 4] = [
        |_| {
            let mut header = std::vec![0; HEADER_SIZE];
            header[12..].copy_from_slice(&4097_u32.to_le_bytes());
            header
        },
        |request| {
            let wrong = Message {
                request_id: request.request_id.wrapping_add(1),
                ..request.reply(Vec::new())
            };
            wrong.encode().unwrap()
        },
        |request| {
            let wrong = Message {
                transaction_id: 9,
                ..request.reply(Vec::new())
            };
            wrong.encode().unwrap()
        },
        |request| {
            let wrong = Message {
                kind: Kind::WRITE,
                ..request.reply(Vec::new())
            };
            wrong.encode().unwrap()
        },
    ];
    for nonsense in nonsense {
        let line = Line::default();
        let client = line.client();
        line.then(move |request, line| line.from_store.extend(nonsense(request)));
        let error = client.read(&path("data/x")).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Protocol);
        // After that everything begins anew.
        line.reply(b"sense");
        assert_eq!(client.read(&path("data/x")).unwrap(), b"sense");
    }
}

#[test]
fn a_flood_of_events_keeps_no_call_from_its_end() {
    let line = Line::default();
    let client = line.client();
    line.then(|request, line| {
        line.send(&request.reply(b"OK\0".to_vec()));
    });
    let watch = client.watch(&path("data/x")).unwrap();
    let event = watch_event(&line.state().requests[0]);
    // More than is read at a time.
    for _ in 0..4000 {
        line.state().send(&event);
    }
    line.state().grain = 16;
    assert!(watch.take().unwrap());
    assert!(!line.state().from_store.is_empty(), "left for later");
    while watch.take().unwrap() {}
    assert!(line.state().from_store.is_empty());
}
