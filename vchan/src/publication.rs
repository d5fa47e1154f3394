//! The keys that a server has published: making them, seeing to them, taking them back.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::guard::keeps;
use crate::host::{Answers, Host, NodeAccess, Ongoing, Permissions, Reply, Request};
use crate::keys::{Keys, Published};
use crate::patience::{Blocking, Patience, ask, ask_all, at_once, have_done};
use crate::{DomId, Error, StoreError, StoreErrorKind, StorePath};

/// How long who drops a publication waits for a store that does not answer.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// Keys that this domain publishes. Dropping it removes them.
pub(crate) struct Publication {
    host: Host,
    keys: Keys,
    peer: DomId,
    published: Published,
    permissions: Permissions,
    stage: Stage,
    /// Whether the peer existed when the permissions were set last.
    peer_exists: bool,
    /// Whether this domain is told if the peer exists: only dom0 is.
    is_told: bool,
    /// The renewal that is under way.
    renewal: Option<(Renewal, Box<dyn Ongoing>)>,
}

/// How much of it is in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Nothing,
    /// Perhaps a part.
    Begun,
    Standing,
    /// Perhaps no more than a part: it is being taken back.
    Leaving,
}

/// The steps of a renewal, each a round trip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Renewal {
    /// Looking whether the keys stand, and perhaps whether the peer exists.
    Looking,
    /// Setting the permissions, or everything, anew.
    Mending,
}

impl Publication {
    /// The keys that lead to `published`, for `peer` only. Nothing of it is in the store yet.
    pub(crate) fn new(
        host: &Host,
        keys: Keys,
        owner: DomId,
        peer: DomId,
        published: Published,
    ) -> Publication {
        let permissions = Permissions {
            owner,
            default: NodeAccess::None,
            domains: vec![(peer, NodeAccess::Read)],
        };
        Publication {
            host: host.clone(),
            keys,
            peer,
            published,
            permissions,
            stage: Stage::Nothing,
            peer_exists: false,
            is_told: true,
            renewal: None,
        }
    }

    /// Whether it has still to be published, in whole or in part.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Nothing | Stage::Begun)
    }

    /// Publishes `ring-ref`, then `event-channel`, by which clients know that both are there. Each
    /// is written before its permissions are set, as nothing else is possible without a
    /// transaction, of which a domain has few. Below the domain's own directory a node that is
    /// made is closed to everyone else until then.
    ///
    /// All of it goes to the store at once: that is one round trip.
    pub(crate) async fn publish(&mut self, patience: &impl Patience) -> Result<(), Error> {
        self.stage = Stage::Begun;
        let values = self.values();
        let [written, permitted, last_written, last_permitted] =
            ask(&self.host, patience, self.requests(&values)).await?;
        written?;
        last_written?;
        match permitted.and(last_permitted) {
            // A domain may not give its nodes away, nor to one that does not exist: was it restored
            // under another number?
            Err(error) if is_absence(&error) => {
                self.permit_as_now(error, patience).await?;
            }
            other => _ = other?,
        }
        self.stage = Stage::Standing;
        Ok(())
    }

    /// Sets the permissions with the own number as it is now, if that is another one.
    async fn permit_as_now(
        &mut self,
        error: StoreError,
        patience: &impl Patience,
    ) -> Result<(), Error> {
        let owner = self.host.read_domid(patience).await?;
        if owner == self.permissions.owner {
            return Err(error.into());
        }
        self.permissions.owner = owner;
        have_done(&self.host, patience, &self.permits()).await
    }

    fn values(&self) -> [String; 2] {
        let Published {
            ring_ref,
            event_channel,
        } = self.published;
        [ring_ref.to_string(), event_channel.to_string()]
    }

    fn permits(&self) -> [Request<'_>; 2] {
        [self.keys.ring_ref(), self.keys.event_channel()].map(|key| {
            if keeps("publish-permissions") {
                Request::SetPermissions(key, &self.permissions)
            } else {
                Request::Permissions(key)
            }
        })
    }

    fn requests<'a>(&'a self, values: &'a [String; 2]) -> [Request<'a>; 4] {
        let [ring_ref, event_channel] = values;
        let [permit, last_permit] = self.permits();
        [
            Request::Write(self.keys.ring_ref(), ring_ref.as_bytes()),
            permit,
            Request::Write(self.keys.event_channel(), event_channel.as_bytes()),
            last_permit,
        ]
    }

    // Seeing to the keys.

    /// Whether a renewal is under way.
    pub(crate) fn is_renewing(&self) -> bool {
        self.renewal.is_some()
    }

    /// Begins to see to the keys; to be called now and then while the client is waited for, and
    /// [`renewed`](Publication::renewed) after it. Nobody waits for the store.
    pub(crate) fn renew(&mut self) {
        let look = [
            Request::Read(self.keys.ring_ref()),
            Request::IsDomainIntroduced(self.peer),
        ];
        let ask_for_peer = self.is_told && self.peer != DomId::DOM0;
        let look = if ask_for_peer { &look[..] } else { &look[..1] };
        let looking = self.host.store().submit(look);
        self.renewal = Some((Renewal::Looking, looking));
    }

    /// Goes on with a renewal, as far as the store has answered. Publishes the keys again when they
    /// have vanished, as they do when xenstored is restarted. Sets the permissions again if the peer
    /// may have come to exist since they were set last: those that were given to a domain that did
    /// not exist are lost.
    pub(crate) fn renewed(&mut self) -> Result<(), StoreError> {
        while let Some((step, mut ongoing)) = self.renewal.take() {
            let now = self.host.events().now();
            let answers = match ongoing.poll() {
                Some(answers) => answers,
                None if ongoing.limit().is_some_and(|limit| limit <= now) => {
                    ongoing.wait(Some(now))
                }
                None => {
                    self.renewal = Some((step, ongoing));
                    return Ok(());
                }
            };
            match step {
                Renewal::Looking => self.mend(answers)?,
                Renewal::Mending => {
                    if let Some(Err(error)) = answers.into_iter().find(Result::is_err) {
                        // Then they are to be set again, too.
                        self.peer_exists &= !keeps("mend-until-done");
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins what is to be done after a look.
    fn mend(&mut self, answers: Answers) -> Result<(), StoreError> {
        let mut answers = answers.into_iter();
        let value = answers.next().map(|answer| answer.and_then(Reply::value));
        let stands = match value {
            Some(Ok(value)) if value == self.values()[0].as_bytes() => true,
            // Another server has taken over.
            Some(Ok(_)) => return Ok(()),
            // One may not even learn that a node is missing where one has no directory any more.
            Some(Err(error)) if is_absence(&error) => false,
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        };
        let exists = match answers
            .next()
            .map(|answer| answer.and_then(Reply::introduced))
        {
            Some(Ok(exists)) => exists,
            // Only dom0 is told. Everyone else can but set them each time.
            Some(Err(error)) if error.kind == StoreErrorKind::Denied => {
                self.is_told = false;
                true
            }
            Some(Err(error)) => return Err(error),
            None => !self.is_told && self.peer != DomId::DOM0,
        };
        let may_be_new = exists && !(self.peer_exists && self.is_told);
        self.peer_exists = exists;
        let requests: Vec<Request<'_>>;
        let values = self.values();
        if !stands && keeps("publish-again") {
            tracing::warn!(path = %self.keys.base(), "the keys are gone; publishing them again");
            let removals = [self.keys.event_channel(), self.keys.ring_ref()].map(Request::Remove);
            requests = removals.into_iter().chain(self.requests(&values)).collect();
        } else if may_be_new && keeps("renew-permissions") {
            requests = self.permits().to_vec();
        } else {
            return Ok(());
        }
        let mending = self.host.store().submit(&requests);
        self.renewal = Some((Renewal::Mending, mending));
        Ok(())
    }

    // Taking them back.

    /// Removes the keys that are still ours, and the directory if nothing else is in it.
    pub(crate) async fn withdraw(&mut self, patience: &impl Patience) -> Result<(), Error> {
        self.renewal = None;
        if self.stage == Stage::Nothing || !keeps("withdraw") {
            self.stage = Stage::Nothing;
            return Ok(());
        }
        self.stage = Stage::Leaving;
        let keys = [self.keys.event_channel(), self.keys.ring_ref()];
        let found = ask_all(&self.host, patience, &keys.map(Request::Read)).await?;
        let [ring_ref, event_channel] = self.values();
        let mut removals = Vec::new();
        for ((key, ours), found) in keys.into_iter().zip([event_channel, ring_ref]).zip(found) {
            match found.and_then(Reply::value) {
                Ok(value) if value == ours.as_bytes() || !keeps("withdraw-own") => {
                    removals.push(key.clone());
                }
                Ok(_) => {}
                Err(error) if error.kind == StoreErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !removals.is_empty() {
            self.remove(removals, patience).await?;
        }
        self.stage = Stage::Nothing;
        Ok(())
    }

    /// Removes these keys. Then it removes the directory if that is left empty, and with it the
    /// parents that only vchans have: those of the path `data/vchan/<client domid>/<port>`.
    async fn remove(
        &self,
        mut paths: Vec<StorePath>,
        patience: &impl Patience,
    ) -> Result<(), Error> {
        let mut above = Some(self.keys.base().clone());
        while let Some(directory) = above {
            let looks = [Request::Directory(&directory), Request::Read(&directory)];
            let removals = paths.iter().map(Request::Remove);
            let requests: Vec<_> = removals.chain(looks).collect();
            let mut answers = ask_all(&self.host, patience, &requests).await?;
            let (value, names) = (answers.pop(), answers.pop());
            for removed in answers {
                removed?;
            }
            let is_empty = matches!(value, Some(Ok(Reply::Value(value))) if value.is_empty())
                && matches!(names, Some(Ok(Reply::Names(Some(names)))) if names.is_empty());
            if !is_empty {
                return Ok(());
            }
            above = self.above_of_vchans(&directory);
            paths = vec![directory];
        }
        let removals: Vec<_> = paths.iter().map(Request::Remove).collect();
        have_done(&self.host, patience, &removals).await
    }

    /// The directory above, if only vchans have it.
    fn above_of_vchans(&self, directory: &StorePath) -> Option<StorePath> {
        // By bytes: a search for characters is half a kilobyte in a guest without an operating system.
        let end = |text: &str| text.bytes().rposition(|byte| byte == b'/');
        let above = directory.as_str().get(..end(directory.as_str())?)?;
        let name = end(above).map_or(Some(above), |at| above.get(at + 1..))?;
        let is_of_vchans = name == "vchan" || name.parse() == Ok(self.peer);
        above.parse().ok().filter(|_| is_of_vchans)
    }

    /// Has the keys removed without waiting for a store that does not answer. Should it go on, it
    /// carries this out after what it was asked before.
    pub(crate) fn abandon(&mut self) {
        let keys = [self.keys.event_channel(), self.keys.ring_ref()];
        drop(self.host.store().submit(&keys.map(Request::Remove)));
        self.stage = Stage::Nothing;
    }
}

/// Whether an error says that there is no such node, or not for us.
fn is_absence(error: &StoreError) -> bool {
    matches!(
        error.kind,
        StoreErrorKind::NotFound | StoreErrorKind::Denied
    )
}

impl Drop for Publication {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Begun | Stage::Leaving) {
            // Whoever was publishing it or taking it back has given up.
            return self.abandon();
        }
        let deadline = Some(self.host.events().now().after(LONGEST_GOODBYE));
        if let Err(error) = at_once(self.withdraw(&Blocking { deadline })) {
            tracing::warn!(path = %self.keys.base(), %error, "the keys could not be removed");
        }
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("keys", &self.keys)
            .field("published", &self.published)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
