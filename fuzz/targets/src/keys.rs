//! A client and the keys that it finds: grant references, ports, domids and paths, from whoever may
//! write them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use vchan::host::{GrantRef, Port};
use vchan::layout::{ControlPage, Geometry};
use vchan::memory::PAGE_SIZE;
use vchan::{Client, DomId, Error, Host, StoreErrorKind, StorePath};

use crate::machine::{Machine, Peer, What, lock};
use crate::tree::{Nodes, Step, Value};

/// The most publications of one run.
const MOST: usize = 8;

/// What is in the store, and what it leads to.
#[derive(Arbitrary, Debug)]
struct Published {
    ring_ref: Node,
    event_channel: Node,
    page: Page,
}

/// What a node holds.
#[derive(Arbitrary, Clone, Debug)]
enum Node {
    Missing,
    Denied,
    Fails,
    Number(u32),
    Small(u8),
    Bytes(Vec<u8>),
    Nines(u16),
}

/// The page at the grant reference that is published, and whether it and the port are there.
#[derive(Arbitrary, Clone, Debug)]
struct Page {
    granted: bool,
    bound: bool,
    /// That page 1 holds, the others are zero.
    orders: [u8; 2],
    live: u8,
    indices: [u32; 4],
    first_grant: u8,
    damage: Vec<(u16, u8)>,
    refused: Vec<u8>,
}

/// The server, as the host sees it.
#[derive(Default)]
struct Server {
    granted: bool,
    bound: bool,
    refused: BTreeSet<u8>,
}

impl Peer for Server {
    fn asleep(&mut self) -> bool {
        false
    }

    fn is_bound(&mut self) -> Option<bool> {
        Some(self.bound)
    }

    fn grants(&mut self, what: What) -> bool {
        match what {
            What::Port(_) => self.bound,
            What::Page(GrantRef(number)) => {
                let refused = u8::try_from(number).is_ok_and(|low| self.refused.contains(&low));
                self.granted && !refused
            }
        }
    }
}

/// The first bytes are the client's own domid and the path; then come the publications, one after
/// the other.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((own, path)) = <(Node, Vec<u8>)>::arbitrary(&mut input) else {
        return;
    };
    let path = String::from_utf8_lossy(&path).into_owned();
    check_path(&path);
    let mut publications = Vec::new();
    while !input.is_empty() && publications.len() < MOST {
        publications.extend(Published::arbitrary(&mut input));
    }
    connect(&own, &path, publications);
}

fn connect(own: &Node, path: &str, publications: Vec<Published>) {
    let server = Arc::new(Mutex::new(Server::default()));
    let machine = Machine::new(Arc::clone(&server) as _);
    let nodes = Nodes::default();
    nodes.set("domid", own.value());
    let host = Host::new(machine.clone(), machine.clone(), nodes.clone());
    let expected_domid = match own.value() {
        Err(StoreErrorKind::NotFound) => Some(0),
        Ok(value) => decimal(&value).filter(|&domid| domid <= 0x7FEF),
        Err(_) => None,
    };
    let found = host.domid().ok().map(|domid| u64::from(domid.number()));
    assert_eq!(found, expected_domid);

    let peer = DomId::new(1).expect("a domid");
    let mut builder = Client::builder(&host, peer).timeout(Duration::ZERO);
    let mut base = "/local/domain/1/data/vchan".to_owned();
    if let Ok(path) = path.parse::<StorePath>() {
        let Ok(absolute) = path.under_domain(peer) else {
            return;
        };
        base = absolute.as_str().trim_end_matches('/').to_owned();
        builder = builder.path(path);
    }
    let mut client = match builder.start() {
        Ok(client) => client,
        Err(Error::Path(_)) => return assert!(!is_path(&format!("{base}/event-channel"))),
        Err(_) => return assert!(expected_domid.is_none_or(|own| own == 1)),
    };

    // What is published next is published when the client waits for it.
    let steps = (publications.into_iter().rev()).map(|published| {
        let (server, machine, base) = (Arc::clone(&server), machine.clone(), base.clone());
        let publish = move |nodes: &Nodes| {
            nodes.set(&format!("{base}/ring-ref"), published.ring_ref.value());
            nodes.set(
                &format!("{base}/event-channel"),
                published.event_channel.value(),
            );
            *lock(&server) = Server {
                granted: published.page.granted,
                bound: published.page.bound,
                refused: published.page.refused.iter().copied().collect(),
            };
            published.page.lay_out(&machine);
        };
        Box::new(publish) as Step
    });
    nodes.set_steps(steps.collect());

    loop {
        machine.state().asked.clear();
        let numbers = [("ring-ref"), ("event-channel")].map(|key| {
            let value = vchan::host::Store::read(&nodes, &format!("{base}/{key}").parse().ok()?);
            decimal(&value.ok()?).filter(|&number| number != 0)
        });
        let attempt = client.attempt();
        // Only what the keys say is asked for, and first the port, then the page.
        let asked = machine.state().asked.clone();
        match numbers {
            [Some(page), Some(port)] => {
                let narrow = |number| u32::try_from(number).expect("checked by `decimal`");
                let (page, port) = (GrantRef(narrow(page)), Port(narrow(port)));
                let expected = [What::Port(port), What::Page(page)];
                let both = asked.iter().zip(expected);
                assert!(both.clone().all(|(asked, expected)| *asked == expected));
            }
            _ => assert!(asked.is_empty(), "{asked:?} without keys"),
        }
        match attempt {
            Ok(Some(channel)) => {
                assert!(numbers.iter().all(Option::is_some));
                assert!(machine.state().regions > 0 && machine.state().ports == 1);
                let server_lives = machine.memory().load_byte(21, Ordering::SeqCst);
                assert_eq!(server_lives, 1, "connected to a server that is gone");
                drop(channel);
                assert_idle(&machine);
                break;
            }
            Ok(None) => {
                assert_idle(&machine);
                assert!(client.waiting_for().len() < 8192, "no end of words");
                match client.wait() {
                    Ok(()) => {}
                    Err(Error::TimedOut { .. }) => break,
                    Err(error) => panic!("the wait failed: {error}"),
                }
            }
            Err(error) => {
                assert_idle(&machine);
                assert!(error.to_string().len() < 8192, "no end of words");
                assert!(
                    matches!(
                        error,
                        Error::BadKey { .. }
                            | Error::Page(_)
                            | Error::PeerFault(_)
                            | Error::Store(_)
                    ),
                    "{error:?}"
                );
                break;
            }
        }
    }
}

fn assert_idle(machine: &Machine) {
    let state = machine.state();
    assert_eq!((state.regions, state.ports), (0, 0), "left behind");
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Node::Missing => Err(StoreErrorKind::NotFound),
            Node::Denied => Err(StoreErrorKind::Denied),
            Node::Fails => Err(StoreErrorKind::Refused),
            Node::Number(number) => Ok(number.to_string().into_bytes()),
            Node::Small(number) => Ok((number % 8).to_string().into_bytes()),
            Node::Bytes(bytes) => Ok(bytes.clone()),
            Node::Nines(count) => Ok(vec![b'9'; usize::from(count % 4097)]),
        }
    }
}

impl Page {
    fn lay_out(&self, machine: &Machine) {
        let orders = self.orders.map(|order| 10 + u16::from(order % 5));
        let memory = machine.memory();
        memory.copy_in(0, &[0; PAGE_SIZE]);
        if let Ok(geometry) = Geometry::new(orders[0], orders[1]) {
            let first = u32::from(self.first_grant);
            let between = first + pages(orders[0]);
            let end = between + pages(orders[1]);
            let page = ControlPage {
                geometry,
                left_grants: (first..between).map(GrantRef).collect(),
                right_grants: (between..end).map(GrantRef).collect(),
            };
            memory.copy_in(0, &page.build());
        }
        for (at, index) in (0..16).step_by(4).zip(self.indices) {
            // Mostly zero, so that most pages are good ones.
            let index = if index % 3 == 0 { index } else { 0 };
            memory.copy_in(at, &index.to_le_bytes());
        }
        memory.copy_in(20, &[2, if self.live > 3 { 1 } else { self.live }]);
        for &(at, byte) in &self.damage {
            memory.copy_in(usize::from(at) % PAGE_SIZE, &[byte]);
        }
    }
}

fn pages(order: u16) -> u32 {
    (1 << order) / 4096
}

/// A number in plain decimal digits that has 32 bits: nothing else is a key.
fn decimal(value: &[u8]) -> Option<u64> {
    let mut number = 0;
    if value.is_empty() {
        return None;
    }
    for byte in value {
        let digit = match byte {
            b'0'..=b'9' => u64::from(byte - b'0'),
            _ => return None,
        };
        number = number * 10 + digit;
        if number > u64::from(u32::MAX) {
            return None;
        }
    }
    Some(number)
}

/// What is parsed as a path is one, and nothing else.
fn check_path(text: &str) {
    let parsed = text.parse::<StorePath>();
    assert_eq!(parsed.is_ok(), is_path(text), "{text:?}");
    if let Ok(path) = parsed {
        assert_eq!(path.as_str(), text);
        if let Ok(below) = path.child("ring-ref") {
            let name = below.as_str().rsplit_once('/').map(|(_, name)| name);
            assert_eq!(name, Some("ring-ref"));
            assert!(below.as_str().starts_with(text));
        }
    }
}

/// XenStore's rule, said once more and otherwise: between slashes stand names of certain characters,
/// and what lies below a domain's directory is shorter than a path may be elsewhere.
fn is_path(text: &str) -> bool {
    let is_name = |name: &str| {
        let allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_@";
        !name.is_empty() && name.chars().all(|character| allowed.contains(character))
    };
    let Some(names) = text.strip_prefix('/') else {
        return text.len() <= 2048 && text.split('/').all(is_name);
    };
    let is_domid = |name: &str| decimal(name.as_bytes()).is_some_and(|domid| domid <= 0x7FEF);
    let relative = match names.splitn(4, '/').collect::<Vec<_>>()[..] {
        ["local", "domain", domid, rest] if is_domid(domid) => rest,
        _ => "",
    };
    let is_short = text.len() <= 3071 && relative.len() <= 2048;
    text == "/" || (is_short && names.split('/').all(is_name))
}
