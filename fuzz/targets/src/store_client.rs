//! The XenStore client, and a store that answers what it likes.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use vchan::host::{NodeAccess, Permissions, Store, Time, Watch};
use vchan::xenstore::codec::{self, Kind};
use vchan::xenstore::{Client, Transaction};
use vchan::{DomId, StoreError, StoreErrorKind, StorePath};

use crate::machine::lock;

mod hostile;

use hostile::{Log, Reply};

/// The most calls, and the most answers, of one run.
const MOST: usize = 48;

/// How long a request may take. A store that is silent is rare (see [`hostile`]).
const LIMIT: Duration = Duration::from_millis(4);

/// No call takes so long, however busy the machine is.
const HANG: Duration = Duration::from_secs(60);

/// What the client's user does.
#[derive(Arbitrary, Debug)]
enum Call {
    Read,
    Write(u16),
    Remove,
    Directory,
    Permissions,
    SetPermissions(u8),
    MakeDirectory,
    DomainPath,
    IsDomainIntroduced,
    Watch,
    Take(u8),
    Wait(u8),
    Unwatch(u8),
    Begin,
    ReadInside,
    WriteInside,
    Commit,
    Abort,
}

/// The bytes are calls and answers, mixed.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let (mut calls, mut replies) = (Vec::new(), Vec::new());
    while !input.is_empty() && calls.len() < MOST && replies.len() < MOST {
        match bool::arbitrary(&mut input) {
            Ok(true) => calls.extend(Call::arbitrary(&mut input)),
            Ok(false) => replies.extend(Reply::arbitrary(&mut input)),
            Err(_) => break,
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let log = Arc::new(Mutex::new(Log::default()));
    thread::scope(|scope| {
        let store = scope.spawn(|| hostile::answer(&theirs, replies, &log));
        let client = Client::over(ours).expect("a client").with_time_limit(LIMIT);
        let mut user = User {
            client: Some(client),
            log: Arc::clone(&log),
            watches: Vec::new(),
            transaction: None,
            given_up: None,
        };
        for call in calls {
            user.make(&call);
        }
        drop(user);
        // The client is gone, so the store finds the end of the connection.
        store.join().expect("the client sends only what it may");
    });
}

/// Whether a call that succeeded needed an answer from the store.
#[derive(PartialEq, Eq, Debug)]
enum Asked {
    TheStore,
    Nothing,
}

struct User {
    client: Option<Client>,
    log: Arc<Mutex<Log>>,
    /// Each with whether it may say once more that it has fired.
    watches: Vec<(Box<dyn Watch>, bool)>,
    transaction: Option<Transaction>,
    /// Why the connection was given up.
    given_up: Option<StoreErrorKind>,
}

impl User {
    fn make(&mut self, call: &Call) {
        let begin = Instant::now();
        let was_given_up = self.given_up;
        let result = self.try_to(call);
        assert!(
            begin.elapsed() < HANG,
            "{call:?} took {:?}",
            begin.elapsed()
        );
        if let Err(error) = &result {
            assert!(error.to_string().len() < 16 << 10, "no end of words");
            if let StoreErrorKind::Unreachable | StoreErrorKind::Protocol = error.kind {
                self.given_up.get_or_insert(error.kind);
            }
        }
        if was_given_up.is_some() {
            match result {
                Ok(asked) => assert_eq!(asked, Asked::Nothing, "{call:?} without a connection"),
                Err(error) => assert_eq!(Some(error.kind), was_given_up, "{call:?}"),
            }
        }
    }

    fn try_to(&mut self, call: &Call) -> Result<Asked, StoreError> {
        let client = self.client.clone().expect("not dropped yet");
        let path: StorePath = "data/vchan".parse().expect("a path");
        match call {
            Call::Read => {
                let value = client.read(&path)?;
                self.came(Kind::READ, &value);
            }
            Call::Write(len) => {
                let value = vec![7; usize::from(len % 4200)];
                let long = "data/vchan".len() + 1 + value.len() > codec::PAYLOAD_MAX;
                let result = client.write(&path, &value);
                assert!(result.is_err() || !long, "sent what is too long");
                // That one is refused before the connection is looked at.
                match result {
                    Err(error) if error.kind == StoreErrorKind::Invalid && long => {}
                    result => result?,
                }
            }
            Call::Remove => client.remove(&path)?,
            Call::Directory => {
                let names = client.directory(&path)?;
                let listing = codec::join_strings(&names);
                if !lock(&self.log).said_too_big {
                    self.came(Kind::DIRECTORY, &listing);
                }
            }
            Call::Permissions => {
                let permissions = client.permissions(&path)?;
                let strings = codec::permission_strings(&permissions);
                assert!(strings.len() <= codec::PAYLOAD_MAX);
            }
            Call::SetPermissions(count) => {
                let domains = vec![(DomId::DOM0, NodeAccess::Read); usize::from(*count)];
                client.set_permissions(
                    &path,
                    &Permissions {
                        owner: DomId::DOM0,
                        default: NodeAccess::None,
                        domains,
                    },
                )?;
            }
            Call::MakeDirectory => client.make_directory(&path)?,
            Call::DomainPath => {
                let found = client.domain_path(DomId::DOM0)?;
                self.came(
                    Kind::GET_DOMAIN_PATH,
                    &codec::join_strings([found.as_str()]),
                );
            }
            Call::IsDomainIntroduced => {
                let exists = client.is_domain_introduced(DomId::DOM0)?;
                let letter = if exists { "T" } else { "F" };
                self.came(Kind::IS_DOMAIN_INTRODUCED, &codec::join_strings([letter]));
            }
            Call::Watch => {
                let watch = client.watch(&path)?;
                self.watches.push((watch, true));
            }
            Call::Take(which) => return self.ask(*which, |watch| watch.take()),
            Call::Wait(which) => {
                return self.ask(*which, |watch| watch.wait(Some(Time(Duration::ZERO))));
            }
            Call::Unwatch(which) => {
                if !self.watches.is_empty() {
                    self.watches
                        .remove(usize::from(*which) % self.watches.len());
                }
                return Ok(Asked::Nothing);
            }
            Call::Begin => {
                self.transaction = None;
                self.transaction = Some(client.begin()?);
            }
            Call::ReadInside => {
                let Some(transaction) = &self.transaction else {
                    return Ok(Asked::Nothing);
                };
                let value = transaction.read(&path)?;
                self.came(Kind::READ, &value);
            }
            Call::WriteInside => {
                let Some(transaction) = &self.transaction else {
                    return Ok(Asked::Nothing);
                };
                transaction.write(&path, b"value")?;
            }
            Call::Commit => {
                let Some(transaction) = self.transaction.take() else {
                    return Ok(Asked::Nothing);
                };
                transaction.commit()?;
            }
            Call::Abort => {
                self.transaction = None;
                return Ok(Asked::Nothing);
            }
        }
        Ok(Asked::TheStore)
    }

    /// Asks a watch. What it noticed before the connection was given up it may still tell, once.
    fn ask(
        &mut self,
        which: u8,
        ask: impl FnOnce(&dyn Watch) -> Result<bool, StoreError>,
    ) -> Result<Asked, StoreError> {
        let count = self.watches.len().max(1);
        if let Some((watch, excused)) = self.watches.get_mut(usize::from(which) % count) {
            let fired = ask(&**watch)?;
            if self.given_up.is_some() {
                assert!(fired && *excused, "it goes on without a connection");
                *excused = false;
            }
        }
        Ok(Asked::Nothing)
    }

    /// What a call returned is what the store sent in answer to it.
    fn came(&self, kind: Kind, payload: &[u8]) {
        let log = lock(&self.log);
        let last = log.answers.iter().rev().find(|answers| answers.to == kind);
        let answers = last.expect("it was asked");
        let is_there = answers.payloads.iter().any(|sent| sent == payload);
        assert!(log.raw || is_there, "nobody sent that");
    }
}
